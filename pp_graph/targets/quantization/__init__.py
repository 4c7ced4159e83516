"""int8: the layers of the raw part are quantised by NNCF, and nothing behind them."""
