"""`python -m service`: the same as `lpr`, for an interpreter whose scripts are not on the path."""

from service.cli import app

app()
