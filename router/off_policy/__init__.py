"""From logged decisions to the value of another policy."""
