"""Strategies of hypothesis for hostile inputs, and the live node that receives them."""
