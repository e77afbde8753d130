"""Translation of directives into WORKERGUARD, with a verdict for each line. Pure."""
