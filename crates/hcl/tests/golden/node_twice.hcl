node { a = 1 }
node { b = 2 }
