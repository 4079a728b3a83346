"""Whether a scan is fit for use, and what to try if a result is not good (specs/cli.md, CLI-13, CLI-19)."""
