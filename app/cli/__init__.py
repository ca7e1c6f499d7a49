"""`wherry`: the command line. A command's module is imported when the command is given, to keep the others quick."""
