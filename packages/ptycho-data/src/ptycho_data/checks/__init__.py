"""Whether a scan is fit for use, and what to try where a result is not good (specs/cli.md, CLI-13, CLI-19)."""
