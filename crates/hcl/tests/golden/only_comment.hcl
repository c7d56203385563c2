
# only a comment