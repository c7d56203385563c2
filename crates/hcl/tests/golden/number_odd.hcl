a = 1.
b = .5
c = 1ex
