"""What several rooms need: how a study is run, its tables, budgets of time, the printed numbers of the paper."""
