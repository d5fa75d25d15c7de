"""The one error users see: a line that names the place and ends with the mend."""


class LunaError(Exception):
    """Something the user can mend. The message is one line: file, line or key; what is wrong; what to do."""


class BadSettings(LunaError):
    """params.yaml or a preset does not hold what it should."""


class BadRecord(LunaError):
    """A line of a data file is not what it should be."""


class TeacherError(LunaError):
    """A call to teacher or judge failed for good."""
