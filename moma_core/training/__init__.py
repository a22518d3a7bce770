"""Collecting, training and measuring: what is needed beside routing, extra ``[train]``."""
