"""Which small faults in the code would no test notice? ``make mutants`` tries a sample of them."""
