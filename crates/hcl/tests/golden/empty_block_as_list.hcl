subs {}
