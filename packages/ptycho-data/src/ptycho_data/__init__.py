"""ptycho-data"""
