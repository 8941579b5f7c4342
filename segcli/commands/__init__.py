"""The commands: parse, call, print. stdout is data, everything else is stderr."""
