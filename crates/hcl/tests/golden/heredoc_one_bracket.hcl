text = <END
