"""Who does the work: threads, forked processes, streams of a device."""
