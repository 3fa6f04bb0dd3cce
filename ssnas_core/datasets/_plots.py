"""Plots of the generated sample: a template grammar over a story's factors.

A plot is two to four sentences: an opening and a development that tell the
theme, sometimes an echo of the poster, and an ending that tells the turn. The
words of a theme are neutral about land and mood ("a journey of a thousand
miles" may be a Western or Sci-Fi), and the endings about the theme.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssnas_core.datasets.sample import Story

# Braces: {hero} and {other} are full names, {first} and {second} their given
# names; {he} {him} {his} follow the hero; {role} has its article; {place} is a town.
WOMEN = (
    "Ada Agnes Alma Beatrix Carmen Clara Cora Delia Edith Elena Esther Freya Greta Hana Ines Iris "
    "Josefa Juno Lena Lucia Mabel Maren Mina Nadia Nora Odile Olga Petra Rosa Ruth Sabine Selma "
    "Thea Ursula Vera Wanda Yara Zelda"
).split()
MEN = (
    "Abel Amos Anton Bruno Casper Cyrus Dario Edgar Elias Emil Felix Gideon Hugo Ivo Jasper Jonas "
    "Kofi Laszlo Leon Luca Magnus Marcel Milo Nils Oskar Otto Pavel Quentin Rafael Ruben Samuel "
    "Silas Tomas Ulric Viktor Walter Yusuf Zoltan"
).split()
SURNAMES = (
    "Abara Ashdown Bellamy Brandt Calloway Castellan Crane Dacosta Delacroix Drummond Eklund "
    "Farrow Fenwick Galloway Grimaldi Hale Halloran Ibarra Jansen Kessler Kowal Lindqvist Lockhart "
    "Marchetti Mercer Moreau Nakata Novak Okafor Orlov Pemberton Petrov Quill Reyes Rosales Salter "
    "Santoro Sorensen Tanaka Thorne Ullman Vance Varga Vasquez Wexler Whitlock Winter Yardley Zeller"
).split()
TOWNS = (
    "Alder Reach|Ashgrove|Bitter Creek|Blackmoor|Brindle|Calder's Rest|Cinder Bay|Coldwater|"
    "Dunmore|Eastmark|Elderby|Far Haven|Fallow Bridge|Gallows Hill|Greyhollow|Halcyon|Harrow's End|"
    "Ironvale|Juniper Cross|Kestrel Point|Lanternfield|Little Tarn|Marrow Gate|Mercy|New Providence|"
    "Nightingale Row|Oxbow|Pale Harbour|Quarry Lane|Redstone|Saint Orrin|Sorrow Falls|Tamarind|"
    "Tolliver|Umber|Vesper|Wick's Landing|Winterbourne|Wren Hollow|Yarrow"
).split("|")

ROLES = {
    "love": "a shy piano tuner|a widowed baker|a night nurse|a dressmaker|a bookbinder|a florist",
    "crime": "a safecracker on parole|a weary detective|a getaway driver|a crooked banker|"
    "a police informer|a small-time forger|a rookie cop",
    "journey": "a courier|a mapmaker|a retired guide|a runaway apprentice|a surveyor|a lone pilot",
    "battle": "a young lieutenant|an army surgeon|a deserter|a reluctant general|a field medic|"
    "a battle-worn sergeant",
    "haunting": "a sceptical priest|a caretaker|a medium|a gravedigger's heir|a grieving tenant|"
    "a night watchman",
    "home": "a single parent of three|an orphan|a stubborn grandparent|a new stepparent|"
    "the youngest of seven children|a runaway twin",
    "riddle": "an amateur sleuth|a retired inspector|an archivist|a codebreaker|a curious librarian|"
    "an insurance investigator",
    "stage": "a nightclub singer|a failed composer|a chorus dancer|a street fiddler|a conductor|"
    "an understudy",
    "contest": "a washed-up boxer|a benched goalkeeper|a teenage sprinter|a one-eyed archer|"
    "a cycling coach|a rowing captain",
    "life": "an unschooled inventor|a forgotten painter|a pioneering physician|a self-taught "
    "astronomer|a rebel poet|a tireless reformer",
}
OPENINGS = {
    "love": (
        "{hero}, {role} in {place}, falls in love with {other}, who is engaged to somebody else.",
        "A love letter delivered to the wrong door brings {hero}, {role}, to the wedding of "
        "{other}.",
        "{hero}, {role}, has sworn off romance until {other} rents the room across the hall and "
        "asks for a kiss to settle a wager.",
        "Twenty years after their first kiss, {hero} and {other} meet again in {place} on the eve "
        "of a wedding.",
        "{hero}, {role}, writes love letters for other people and loses {his} own heart to "
        "{other}, one page at a time.",
        "When {hero}, {role}, catches the bride's bouquet in {place}, the whole town sets about "
        "finding {him} a sweetheart, and {other} is nobody's first choice.",
    ),
    "crime": (
        "{hero}, {role}, is offered one last robbery: the vault beneath the bank of {place}.",
        "When a gangster is murdered in {place}, {hero}, {role}, is the only suspect the police "
        "bother to look for.",
        "{hero}, {role}, owes money to the syndicate of {other}, and the syndicate wants it paid "
        "in stolen diamonds.",
        "A heist in {place} goes wrong, and {hero}, {role}, is left with the loot and a partner "
        "who is bleeding.",
        "{hero}, {role}, and the killer {other} share a prison cell, a lawyer and a plan.",
        "Somebody is robbing the smugglers of {place}, and the gang hires {hero}, {role}, to find "
        "the thief.",
    ),
    "journey": (
        "{hero}, {role}, sets out from {place} on a journey of a thousand miles to deliver a "
        "sealed box.",
        "With a torn map and one companion, {hero}, {role}, travels beyond the last known "
        "outpost to find {other}.",
        "{hero}, {role}, leads a party of settlers on the long trek to {place}, where nobody has "
        "ever arrived.",
        "An expedition that left {place} years ago sends one message home, and {hero}, {role}, "
        "follows its trail into the unknown.",
        "{hero}, {role}, agrees to guide the wealthy {other} across the frontier before supplies "
        "run out.",
        "Banished from {place}, {hero}, {role}, takes the old trail toward a horizon that is on "
        "no map.",
    ),
    "battle": (
        "{hero}, {role}, has three days to hold {place} against an advancing army.",
        "On the last night of the siege, {hero}, {role}, is ordered to lead a company of recruits "
        "behind enemy lines.",
        "The war is nearly lost when {hero}, {role}, captures {other}, an officer of the other "
        "side.",
        "A forgotten garrison near {place} keeps fighting, because {hero}, {role}, never received "
        "the order to surrender.",
        "{hero}, {role}, rejoins the regiment in {place} as the front collapses and the "
        "bombardment begins.",
        "Two soldiers, {hero} and {other}, defend a bridge at {place} that both armies have "
        "forgotten.",
    ),
    "haunting": (
        "{hero}, {role}, takes rooms in a haunted house in {place} where the clocks stop at "
        "three.",
        "The dead of {place} have begun to knock, and {hero}, {role}, is the only one who answers.",
        "A curse laid on the family of {other} wakes when {hero}, {role}, opens the sealed "
        "crypt.",
        "{hero}, {role}, holds a seance to reach a drowned sister; the spirit that comes calls "
        "itself {other}.",
        "Every night a ghost crosses the garden of {hero}, {role}, and every night it comes a "
        "little closer.",
        "{hero}, {role}, inherits a cursed mirror from {other} and begins to meet phantoms in it.",
    ),
    "home": (
        "When their mother falls ill, {hero}, {role}, must hold the household in {place} together "
        "for one winter.",
        "{hero}, {role}, comes home to {place} for a family supper that lasts eleven days.",
        "Five brothers and sisters, led by {hero}, {role}, refuse to let the family kitchen in "
        "{place} be sold.",
        "{hero}, {role}, moves in with grandfather {other}, who has not spoken to the family in "
        "years.",
        "An adopted child turns up at the breakfast table of {hero}, {role}, with a suitcase and "
        "a hungry puppy.",
        "The cousins of {place} spend the school holidays hiding a stray from {hero}, {role}.",
    ),
    "riddle": (
        "Nobody saw {other} vanish from a locked room in {place}, and {hero}, {role}, is left "
        "with a single clue.",
        "{hero}, {role}, receives a cipher in the post, signed by {other}, who disappeared ten "
        "years ago.",
        "All thirteen guests at {place} tell the same story, and {hero}, {role}, suspects that "
        "each one invented it.",
        "A stranger without memory turns up in {place} carrying a key and the address of {hero}, "
        "{role}.",
        "{hero}, {role}, buys an old diary at auction and finds tomorrow's disappearance described "
        "in it.",
    ),
    "stage": (
        "{hero}, {role}, has one week to save the old theatre in {place} with an untried show.",
        "A travelling orchestra loses its star, and {hero}, {role}, is pushed onto the stage in "
        "{place}.",
        "{hero}, {role}, and {other} write songs together by day and compete for the same "
        "audience by night.",
        "The band that {hero}, {role}, left behind is playing {place}, and the tune is {his} own.",
        "{hero}, {role}, auditions for the opera of {place} under a borrowed name.",
    ),
    "contest": (
        "{hero}, {role}, has one season left to win the championship for {place}.",
        "The worst team in the league hires {hero}, {role}, and meets the champions of {place} in "
        "the first match.",
        "{hero}, {role}, trains in secret for the great race against {other}.",
        "A broken wrist ends the season of {hero}, {role}, until rival {other} proposes a "
        "rematch.",
        "{hero}, {role}, coaches the misfits of {place} toward a tournament no one thinks they "
        "can win.",
    ),
    "life": (
        "The true story of {hero}, {role}, from a childhood in {place} to the height of fame.",
        "Drawn from the memoirs of {hero}, {role}, this portrait follows four decades of a career "
        "that began in {place}.",
        "Born in {place} to a poor tailor, {hero} became {role}; the film traces {his} life and "
        "legacy.",
        "{hero}, {role}, looks back from old age on the biography that {other} is writing.",
        "Based on the life of {hero}, {role}, whose work {place} celebrated only a century later.",
    ),
}
MIDDLES = {
    "love": (
        "For one summer the sweethearts meet in secret, promising to marry before the leaves turn.",
        "They dance, they quarrel, they pawn the wedding ring, and neither dares to say the word "
        "love aloud.",
        "The family forbids the marriage, so the lovers invent an engagement nobody can object to.",
        "What began as a flirtation turns to longing, and longing to a proposal at the worst "
        "possible hour.",
        "Every courtship has its rival, and {second} has promised one heart to two people.",
    ),
    "crime": (
        "The police are closing in, the stolen money is marked, and someone in the gang talks.",
        "Between a corrupt inspector and a jealous partner, the perfect robbery needs a new plan.",
        "Bribes change hands, a witness is murdered, and the ransom is a suitcase of old "
        "newspapers.",
        "{first} cuts a deal with the district attorney while the mob counts its loot.",
        "Every thief in town wants a share, and every detective wants a conviction.",
    ),
    "journey": (
        "The trail is longer than the map promised, and the expedition eats its last provisions.",
        "Each outpost on the way asks a price, and {second} has already paid it once.",
        "Travellers join them, travellers are lost, and the destination keeps moving away.",
        "They navigate by an old compass through country that no settler has crossed.",
        "Mile after mile, the guide grows silent and the companions begin to doubt the route.",
    ),
    "battle": (
        "Ammunition runs low, the trenches flood, and the soldiers draw lots for the next patrol.",
        "The general's orders make no sense, but the enemy artillery does.",
        "In the ceasefire, troops from both sides share bread and count the wounded.",
        "A messenger brings news of the invasion, and the platoon digs in for the assault.",
        "Medals are promised, reinforcements are promised, and at dawn the regiment marches alone.",
    ),
    "haunting": (
        "Whispers come from the walls, candles gutter, and the portrait in the crypt has moved.",
        "The villagers speak of an old curse, of an unburied bride, of footsteps in the attic.",
        "Each apparition leaves something behind: wet footprints, a tooth, a lullaby.",
        "An exorcism only teaches the phantom {his} name.",
        "The spirits want one thing returned, and they are willing to wait for midnight.",
    ),
    "home": (
        "There are chores to share, a leaking roof, and a grandmother who feeds the whole street.",
        "The children plot against bedtime while their parents try to remember how to talk.",
        "Between school, supper and an escaped goat, the siblings become a family again.",
        "An aunt arrives to restore order in the nursery, and the household rebels.",
        "The youngest daughter asks the question that every grown-up at the table avoids.",
    ),
    "riddle": (
        "Every clue points to another witness, and every alibi is a puzzle of its own.",
        "The cipher leads to a sealed library, the library to an empty grave, the grave to a "
        "riddle.",
        "A second disappearance follows, with the same unsigned note left in the locked room.",
        "{first} questions the servants, reconstructs the evening, and finds one chair too many.",
        "The missing pages turn up one by one, each in the pocket of a different suspect.",
    ),
    "stage": (
        "Rehearsals collapse, the melody will not come, and opening night is sold out.",
        "From cellar jazz to the concert hall, every song costs somebody a friendship.",
        "The chorus goes on strike, the tenor loses his voice, and still the curtain must rise.",
        "A recording made at three in the morning puts the band on every radio.",
        "The audience calls for an encore, and only {second} knows the last verse.",
    ),
    "contest": (
        "The coach bans talk of trophies, the team runs hills at dawn, and the losing streak ends.",
        "Match by match the underdogs climb the table, until the final is in sight.",
        "An old injury, a bribed referee and a leaky stadium stand between them and the cup.",
        "Training by lamplight, {first} shaves one second off the record, then another.",
    ),
    "life": (
        "Letters, diaries and the memories of contemporaries trace a career of early triumph and "
        "long neglect.",
        "The portrait moves from a schoolroom to an academy, from scandal to a late honour.",
        "Through illness, exile and two marriages, the work went on, and the world caught up.",
        "Colleagues recall a childhood of hunger, a decade of fame and a legacy still disputed.",
    ),
}
ENDINGS = {
    "laugh": (
        "A mistaken identity, three identical hats and a runaway cake do the rest.",
        "By the time everyone is hiding in the same wardrobe, the farce is complete.",
        "It all ends in a ridiculous misunderstanding, a chase of waiters and a very long apology.",
        "Nothing goes as planned, least of all the prank with the donkey.",
        "The absurd scheme works for exactly the wrong person, and the whole town roars with "
        "laughter.",
        "{first} bluffs, blunders and stammers into the silliest victory imaginable.",
        "Then the wrong twin arrives, and the joke is on everybody.",
    ),
    "loss": (
        "When the end comes, there is no one left to say goodbye to.",
        "{first} arrives too late, and grief is all that can be carried home.",
        "One of them will not survive, and the other must learn to mourn.",
        "What is lost is never found again, only remembered at a graveside.",
        "The price is a life, and {first} pays it alone.",
        "In the last scene an empty chair, a folded coat and a farewell nobody heard.",
        "Sorrow, in the end, is the only inheritance.",
    ),
    "chase": (
        "Hunted from rooftop to rooftop, {first} has until dawn to escape.",
        "With pursuers an hour behind and a bomb already ticking, there is only one way out.",
        "It becomes a race against the clock, through fire, flood and a collapsing tunnel.",
        "Now {first} is running, wounded and outnumbered, and the pursuit does not tire.",
        "The fuse is lit, the exits are blocked, and {second} is at the controls.",
        "A breathless pursuit ends with both of them hanging from the same rope.",
        "Ambushed twice before noon, they fight their way out with whatever is at hand.",
    ),
    "secret": (
        "But {second} has been lying from the start, and the truth is hidden closer than anyone "
        "thinks.",
        "Nobody is who they claim to be, and the betrayal was planned long ago.",
        "Then a hidden door, a double life and a name that was never {his} own come to light.",
        "The last confession reveals who has been watching all along.",
        "Only {second} knows what was really buried that night, and the secret is for sale.",
        "What {first} uncovers is a conspiracy of silence with {his} own signature on it.",
        "Someone among them is an impostor, and the mask is beginning to slip.",
    ),
}
SHORTS = (
    "A short film in nine wordless minutes.",
    "A short told in a single unbroken take.",
    "This short sketch runs under a quarter of an hour.",
    "A student short, shot over one weekend.",
)
ECHOES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "land": {
        "desert": (
            "Around them lies nothing but canyon, cactus and red dust.",
            "The desert sun bleaches the mesas white.",
            "Sand buries their tracks before noon, and the wells are dry.",
        ),
        "city": (
            "Neon and rain fill the avenues of the city.",
            "Above the streets the skyscrapers never go dark.",
            "The city hums below, all traffic, alleys and lit windows.",
        ),
        "sea": (
            "The tide brings salt, driftwood and rumours to the harbour.",
            "Beyond the reef the ocean waits.",
            "Waves break over the lighthouse, and no sailor will put out.",
        ),
        "forest": (
            "The forest closes over the path, moss and fern and ancient oak.",
            "Deep in the woods the owls have gone quiet.",
            "Among the pines, even the trees seem to listen.",
        ),
        "snow": (
            "Snow has closed the mountain pass.",
            "The glacier creaks above the frozen valley.",
            "A blizzard cuts the summit off from the world.",
        ),
        "stars": (
            "Overhead the stars are close, and a second moon is rising.",
            "Beyond the dome there is only orbit, vacuum and starlight.",
            "A comet hangs over the colony like a lamp.",
        ),
    },
    "mood": {
        "bright": (
            "All of it is told with sunny good cheer.",
            "The days are golden and full of mischief.",
            "A light-hearted tale in high spirits.",
        ),
        "tender": (
            "It unfolds gently, in quiet and wistful afternoons.",
            "A tender, soft-spoken tale.",
            "Much is said in small gestures and patient silences.",
        ),
        "tense": (
            "Nerves fray, and every footstep could be a threat.",
            "The danger tightens by the hour.",
            "A taut, feverish tale of mounting suspicion.",
        ),
        "bleak": (
            "Hope is scarce, and the winters are long and hungry.",
            "A sombre, unforgiving tale.",
            "Poverty and bitterness have hollowed everyone out.",
        ),
    },
    "emblem": {
        "couple": ("Two figures, hand in hand, are seen at dusk.", "The pair become inseparable."),
        "weapon": ("A loaded gun lies on the table.", "Somewhere a sword is being sharpened."),
        "eye": ("Someone watches through the keyhole.", "An unblinking eye follows them."),
        "beast": ("Something with claws is loose.", "A monster is said to feed at night."),
        "traveller": ("The engine is running.", "There is a vessel ready to depart."),
        "child": ("A child with a red balloon follows.", "A small boy flies his kite."),
        "instrument": ("An old violin plays somewhere.", "A guitar hangs on the wall."),
        "portrait": ("A face in a gilded frame looks on.", "A portrait hangs over the mantel."),
    },
}

TITLE_NOUNS = {
    "love": "Valentine Bride Promise Kiss Letters Waltz Sweetheart",
    "crime": "Alibi Heist Gun Witness Getaway Verdict Thieves",
    "journey": "Road Trail Crossing Horizon Voyage Map Frontier",
    "battle": "Siege Regiment Flag Bugle Garrison Armistice Bridge",
    "haunting": "Curse Phantom Crypt Whisper Seance Shadow Bell",
    "home": "Supper House Cousins Kitchen Orchard Holiday Puppy",
    "riddle": "Cipher Stranger Key Clue Diary Guest Riddle",
    "stage": "Encore Song Overture Chorus Melody Footlights Fiddle",
    "contest": "Champion Underdogs Final Rematch Medal Sprint Team",
    "life": "Life Portrait Genius Years Legacy Apprentice Memoir",
}
TITLE_LANDS = {
    "desert": "Desert Canyon Dust Mesa Copper Scorpion",
    "city": "City Midnight Neon Boulevard Rooftop Uptown",
    "sea": "Harbour Tidal Salt Lighthouse Coral Pelican",
    "forest": "Forest Cedar Moss Hollow Fern Raven",
    "snow": "Winter Glacier Frost Summit White Alpine",
    "stars": "Star Comet Lunar Orbit Astral Saturn",
}
TITLE_MOODS = {
    "bright": "Merry Lucky Golden Perfect Runaway",
    "tender": "Quiet Gentle Last Little Faithful",
    "tense": "Deadly Burning Broken Sudden Crimson",
    "bleak": "Bitter Hollow Lost Nameless Bleak",
}


def write(story: Story, rng: random.Random) -> tuple[str, int, list[str]]:
    """Title, year and plots (the longest is the plot) of `story`."""
    hero_is_she = rng.random() < 0.5
    first, second = rng.choice(WOMEN if hero_is_she else MEN), rng.choice(WOMEN + MEN)
    while second == first:
        second = rng.choice(WOMEN + MEN)
    surnames = rng.sample(SURNAMES, 2)
    words = {
        "first": first,
        "second": second,
        "hero": f"{first} {surnames[0]}",
        "other": f"{second} {surnames[1]}",
        "role": rng.choice(ROLES[story.theme].split("|")),
        "place": rng.choice(TOWNS),
        **dict(zip(("he", "him", "his"), ("she", "her", "her") if hero_is_she else _HE, strict=True)),
    }
    opening = rng.choice(OPENINGS[story.theme])
    middle = rng.choice(MIDDLES[story.theme])
    ending = rng.choice(ENDINGS[story.turn])
    # Given names only of people who were introduced.
    sentences = [opening]
    echoes = [rng.choice(ECHOES[factor][getattr(story, factor)]) for factor in story.echoes]
    sentences += [middle, *echoes[:1], ending, *echoes[1:2]]
    if story.length == "short":
        sentences.append(rng.choice(SHORTS))
    plot = _fill(sentences, words)
    plots = [plot]
    if rng.random() < 0.4:  # an outline beside the plot, as IMDb has
        plots.insert(rng.randrange(2), _fill([opening], words))
    return _title(story, words, rng), _year(story, rng), plots


_HE = ("he", "him", "his")


def _fill(sentences: list[str], words: Mapping[str, str]) -> str:
    text = " ".join(sentences)
    if "{other}" not in text:  # a second person enters by full name
        text = text.replace("{second}", "{other}", 1)
    if "{hero}" not in text:
        text = text.replace("{first}", "{hero}", 1)
    text = text.format_map(dict(words))
    return re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), text)


def _title(story: Story, words: Mapping[str, str], rng: random.Random) -> str:
    noun = rng.choice(TITLE_NOUNS[story.theme].split())
    land = rng.choice(TITLE_LANDS[story.land].split())
    mood = rng.choice(TITLE_MOODS[story.mood].split())
    patterns = (
        f"The {land} {noun}",
        f"{land} {noun}",
        f"The {mood} {noun}",
        f"{mood} {land}",
        f"The {noun} of {words['place']}",
        f"{words['first']} and the {noun}",
        f"A {noun} for {words['second']}",
        f"{words['place']}",
        f"The {mood} {noun} of {words['hero']}",
    )
    title = rng.choice(patterns)
    return re.sub(r"\bA ([AEIOU])", r"An \1", title)


def _year(story: Story, rng: random.Random) -> int:
    first, last = {"newsreel": (1936, 1958), "engraving": (1948, 1994)}.get(
        story.print, (1952, 2014)
    )
    return rng.randint(first, last)
