"""What a report looks like: the drawn graph as data, text for terminals and pipes, and a page for browsers."""
