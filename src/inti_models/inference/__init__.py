"""From videos to labels, in this process, in other runtimes and on many machines."""
