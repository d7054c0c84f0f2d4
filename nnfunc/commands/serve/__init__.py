"""The command `nnfunc serve`: a trained run behind HTTP, for programs and in a page with a form.

Starlette and uvicorn serve it, without FastAPI: the columns of a run are known only when it is loaded, so there are
no annotations to make a schema from, and FastAPI's own pages load their scripts from another host.
"""
