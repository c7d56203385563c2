naïve = 1
"quoted key" = 2
dotted.key-dash_1 = 3
true = 4
