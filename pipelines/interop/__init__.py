"""What other tools write, as pipelines and commands of this suite."""
