"""The Spark side: genotypes, people and instruments in, a genotype store out.

The only code that imports Hail or PySpark, and only inside functions: importing these modules
needs neither.
"""
