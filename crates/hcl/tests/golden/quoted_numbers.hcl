text = 8081
int = "8081"
may_int = "0x1F"
may_text = 0777
