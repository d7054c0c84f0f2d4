"""The models: a screenful of combinators each."""
