"""Is there anything to route in a table? Asked before a router is trained."""
