"""ptycho-torch"""
