"""ptycho-cli"""
