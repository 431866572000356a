"""The version of the suite and of its container images."""

VERSION = "0.1.0"
