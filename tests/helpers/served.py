"""A served run in this process, without a socket."""

import asyncio


class Served:
    """An application in this process; `get` and `post` return answers."""

    def __init__(self, run, name="pets", **limits):
        from nnfunc.commands.serve.http_application import Limits, Server, create_application

        self.server = Server.of(name, run, Limits(**limits))
        self.server.start()
        self.application = create_application(self.server, ["test"])

    def send(self, method, path, **arguments):
        async def request():
            import httpx

            transport = httpx.ASGITransport(self.application)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                return await client.request(method, path, **arguments)

        return asyncio.run(request())

    def get(self, path, **arguments):
        return self.send("GET", path, **arguments)

    def post(self, path, **arguments):
        return self.send("POST", path, **arguments)
