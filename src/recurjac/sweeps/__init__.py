"""Many independent tasks: who does them, where finished ones are kept, and how a run goes on after an interruption.

Neither the tasks nor their rows are of interest here: `experiments` and the command line say what they are.
"""
