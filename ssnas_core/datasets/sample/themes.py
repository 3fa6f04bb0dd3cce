"""What happens in the generated sample's plots: the words that tell a theme.

Braces: {hero} and {other} are full names, {first} and {second} their given
names; {he} {him} {his} follow the hero; {role} has its article; {place} is a
town. The words are neutral about where it happens and in what mood.
"""

from __future__ import annotations

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
    "riddle": "an amateur sleuth|a retired inspector|an archivist|a codebreaker|"
    "a curious librarian|"
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
        "{hero}, {role}, advertises for a husband or a wife, and {other} answers out of spite, in "
        "verse.",
        "The jilted {hero}, {role}, and the jilted {other} agree to share a honeymoon that is "
        "already "
        "paid for.",
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
        "The jewels are gone, the watchman is dead, and {hero}, {role}, was seen leaving {place} "
        "by "
        "the back stairs.",
        "{hero}, {role}, agrees to testify against the racketeer {other}, and gets a price on "
        "{his} "
        "head.",
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
        "{hero}, {role}, agrees to lead the wealthy {other} across the frontier before supplies "
        "run out.",
        "Banished from {place}, {hero}, {role}, takes the old trail toward a horizon that is on "
        "no map.",
        "A caravan bound for {place} takes {hero}, {role}, aboard in exchange for a promise "
        "about the "
        "way back.",
        "{hero}, {role}, has forty days of provisions and a route that takes fifty to reach "
        "{place}.",
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
        "{hero}, {role}, carries an order of retreat through the lines to a battalion that will "
        "not "
        "believe it.",
    ),
    "haunting": (
        "{hero}, {role}, takes rooms in a haunted house in {place} where the clocks stop at three.",
        "The dead of {place} have begun to knock, and {hero}, {role}, is the only one who answers.",
        "A curse laid on the family of {other} wakes when {hero}, {role}, opens the sealed crypt.",
        "{hero}, {role}, holds a seance to reach a drowned sister; the spirit that comes calls "
        "itself {other}.",
        "Every night a ghost crosses the garden of {hero}, {role}, and every night it comes a "
        "little closer.",
        "{hero}, {role}, inherits a cursed mirror from {other} and begins to meet phantoms in it.",
        "The seance was meant as a hoax, until {hero}, {role}, recognises the voice of the ghost.",
        "In the cellar of {place} {hero}, {role}, finds a coffin with {his} own name on the lid.",
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
        "The grandchildren of {other} draw lots for who has to tell {hero}, {role}, that the "
        "family "
        "home is gone.",
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
        "One ballad makes {hero}, {role}, famous in {place}, and it was written by {other}.",
    ),
    "contest": (
        "{hero}, {role}, has one season left to win the championship for {place}.",
        "The worst team in the league hires {hero}, {role}, and meets the champions of {place} in "
        "the first match.",
        "{hero}, {role}, trains in secret for the great race against {other}.",
        "A broken wrist ends the season of {hero}, {role}, until rival {other} proposes a rematch.",
        "{hero}, {role}, takes the misfits of {place} toward a tournament no one thinks they "
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
