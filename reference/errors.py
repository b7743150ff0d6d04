"""The one exception a user's own mistake raises; the command line turns it into one sentence and exit status 2."""


class PatchParityError(ValueError):
    """A call that cannot be carried out: the message names the value, its shape, and what was expected."""
