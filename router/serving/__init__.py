"""The HTTP service around an artifact, and the plug-in for a gateway."""
