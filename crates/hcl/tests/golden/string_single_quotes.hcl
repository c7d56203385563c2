text = 'single'
