"""The one exception that a user is meant to read."""


class RouterError(Exception):
    """A fault that the user can mend: one sentence with the place and the remedy.

    The command line prints it without a traceback and ends with exit code 2.
    """
