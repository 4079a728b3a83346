"""ptycho-tf"""
