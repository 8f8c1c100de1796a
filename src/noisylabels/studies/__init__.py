"""What is read out of run folders and datasets: tables, pages, inspections."""
