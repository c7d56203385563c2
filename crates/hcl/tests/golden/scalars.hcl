text = "hello"
int = 42
float = 1.5
bool = true
may_text = "there"
may_int = -7
may_bool = false
