"""The form at the lending desk. Runs in a worker."""

from django import forms

from catalogue.models import Book, Loan


class LoanForm(forms.ModelForm):
    class Meta:
        model = Loan
        fields = ["reader"]
        labels = {"reader": "Your name"}
        widgets = {"reader": forms.TextInput(attrs={"autocomplete": "name", "placeholder": "Ada Lovelace"})}

    def lend(self, book: Book) -> Loan:
        """Save the loan of this book."""
        self.instance.book = book
        return self.save()
