"""The commands of ptycho-cli, one module a command."""
