"""The library's first books."""

from django.db import migrations
from django.utils.text import slugify

SHELVES = {
    "Voyages": "There, and with luck back again: by ship, balloon, submarine and on foot.",
    "Machines and moons": "What the nineteenth century thought that the future would do to it.",
    "Houses and hearts": "Drawing rooms, inheritances, proposals; the walk home afterwards.",
    "Shadows": "Read these with the lamp lit, or on a bright morning.",
}
AUTHORS = {
    "Jane Austen": (1775, 1817),
    "Charlotte Brontë": (1816, 1855),
    "Emily Brontë": (1818, 1848),
    "Wilkie Collins": (1824, 1889),
    "Charles Dickens": (1812, 1870),
    "Arthur Conan Doyle": (1859, 1930),
    "George Eliot": (1819, 1880),
    "Elizabeth Gaskell": (1810, 1865),
    "Jerome K. Jerome": (1859, 1927),
    "Herman Melville": (1819, 1891),
    "Mary Shelley": (1797, 1851),
    "Robert Louis Stevenson": (1850, 1894),
    "Bram Stoker": (1847, 1912),
    "Jules Verne": (1828, 1905),
    "H. G. Wells": (1866, 1946),
    "Edith Wharton": (1862, 1937),
}
BOOKS = [
    ("Moby-Dick", "Herman Melville", "Voyages", 1851, 635, "A captain, a whale, and everything known about either."),
    ("Treasure Island", "Robert Louis Stevenson", "Voyages", 1883, 292, "A map, a mutiny, a parrot, and the boy in the apple barrel."),
    ("Three Men in a Boat", "Jerome K. Jerome", "Voyages", 1889, 315, "Up the Thames with a dog, a banjo and a tin of pineapple."),
    ("Around the World in Eighty Days", "Jules Verne", "Voyages", 1873, 253, "A wager made at whist, kept to the minute."),
    ("Kidnapped", "Robert Louis Stevenson", "Voyages", 1886, 266, "Shipwreck, heather, and a friend with too good a coat."),
    ("Twenty Thousand Leagues Under the Seas", "Jules Verne", "Machines and moons", 1870, 426, "A guest of Captain Nemo, who does not let his guests leave."),
    ("From the Earth to the Moon", "Jules Verne", "Machines and moons", 1865, 186, "Gunners without a war look for something farther to hit."),
    ("The Time Machine", "H. G. Wells", "Machines and moons", 1895, 118, "Dinner guests hear what becomes of them all, eight hundred thousand years on."),
    ("The War of the Worlds", "H. G. Wells", "Machines and moons", 1898, 287, "No one would have believed it, and then there was a cylinder on the common."),
    ("The First Men in the Moon", "H. G. Wells", "Machines and moons", 1901, 312, "A playwright, an inventor, and a metal that gravity cannot hold."),
    ("Pride and Prejudice", "Jane Austen", "Houses and hearts", 1813, 432, "A bad first impression, corrected over some three hundred pages."),
    ("Persuasion", "Jane Austen", "Houses and hearts", 1817, 249, "Eight years too late, and then a letter."),
    ("Jane Eyre", "Charlotte Brontë", "Houses and hearts", 1847, 532, "A governess with a mind of her own, and a house with a third floor."),
    ("Middlemarch", "George Eliot", "Houses and hearts", 1871, 880, "A whole town, and how its people fail and help one another."),
    ("North and South", "Elizabeth Gaskell", "Houses and hearts", 1855, 521, "A southern parsonage moves to a mill town and argues with it."),
    ("The Age of Innocence", "Edith Wharton", "Houses and hearts", 1920, 305, "Old New York, where everything is known and nothing said."),
    ("Great Expectations", "Charles Dickens", "Houses and hearts", 1861, 544, "A convict, a stopped clock, and money from the wrong hand."),
    ("Frankenstein", "Mary Shelley", "Shadows", 1818, 280, "A student makes something and will not look after it."),
    ("Dracula", "Bram Stoker", "Shadows", 1897, 418, "Diaries, telegrams, train timetables, and a count who studies them too."),
    ("Wuthering Heights", "Emily Brontë", "Shadows", 1847, 342, "Two houses on a moor, and weather in every room."),
    ("The Woman in White", "Wilkie Collins", "Shadows", 1860, 672, "A meeting on the road at night, and each witness tells a part."),
    ("The Moonstone", "Wilkie Collins", "Shadows", 1868, 528, "A diamond is gone, a nightgown is missing, and a butler consults Robinson Crusoe."),
    ("The Hound of the Baskervilles", "Arthur Conan Doyle", "Shadows", 1902, 256, "The footprints were those of a gigantic hound."),
    ("Strange Case of Dr Jekyll and Mr Hyde", "Robert Louis Stevenson", "Shadows", 1886, 141, "Two men at one address, never in together."),
]


def fill(apps, schema_editor):
    Shelf, Author, Book = (apps.get_model("catalogue", name) for name in ("Shelf", "Author", "Book"))
    shelves = {name: Shelf.objects.create(name=name, slug=slugify(name), about=about) for name, about in SHELVES.items()}
    authors = {
        name: Author.objects.create(name=name, slug=slugify(name), born=born, died=died)
        for name, (born, died) in AUTHORS.items()
    }
    Book.objects.bulk_create(
        Book(
            title=title,
            slug=slugify(title),
            author=authors[author],
            shelf=shelves[shelf],
            published=published,
            pages=pages,
            about=about,
            copies=1 + len(title) % 3,
        )
        for title, author, shelf, published, pages, about in BOOKS
    )


def empty(apps, schema_editor):
    for name in ("Loan", "Book", "Author", "Shelf"):
        apps.get_model("catalogue", name).objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("catalogue", "0001_initial")]
    operations = [migrations.RunPython(fill, empty)]
