"""The phrases the practice model understands: data only (floor 4).

A row is (kind, builder, pattern). The pattern must fit a whole clause, and the first fitting row wins: what
is narrow stands above what is wide. `grammar` has the builders, which make tool calls of what was caught.
In patterns a space stands for any white space and ' also for ’; what repeats is bounded, so that a long
paste costs no more than reading it.

It deliberately stays a list. What no row fits is not understood, and is said to be so.
"""

from __future__ import annotations

import re


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of this file as a regular expression."""
    source = pattern.replace("'", "['’]").replace(" ", r"\s{1,9}")
    return re.compile(source, re.IGNORECASE | re.DOTALL)


# Words before the matter itself: "hey, could you please tell me ...".
LEAD = compiled(
    r"(?:(?:hey|hi|hello|ok(?:ay)?|so|well|now|then|also|next|first|finally|please|kindly|and|but|afterwards"
    r"|after that|unflappable)\b[,:!]* (?=\S)|(?:can|could|would|will) you(?: please| kindly)? "
    r"|i(?:'d| would) (?:like|love)(?: you)?(?: to)?(?: know)? |i (?:want|need)(?: you)?(?: to)?(?: know)? "
    r"|let's |let me know |(?:do you know|tell me|show me|give me|i wonder) )"
)
PLAIN_TALK = compiled(r"\b(?:nice|good|bad|great|lovely|terrible|i|love|hate|like|what|how|is|rainy|sunny|about)\b")

WHEN = (
    r"(?:today|tonight|tomorrow|right now|now|currently|at the moment|outside|there|like"
    r"|(?:this|next) (?:week|weekend|morning|afternoon|evening|month))"
)
_FORECAST = (
    r"(?:the |a )?(?:(?:current|latest|local|today's|tomorrow's|tonight's) ){0,2}"
    r"(?:weather|forecast|temperature|temp)(?: forecast| report| conditions?| update)?"
)
_ASK = r"(?:(?:what|how)(?:'s|s| is| was| will| are| about)?|get|check|fetch|find(?: out)?|look up|compare|report)"
_IN = r"(?:in|at|near|for|of|around|over)"
_CITIES = rf"(?: {WHEN}){{0,3}} (?:in|at|near|around|over) (?P<cities>.+)"

_KEEP = r"(?:save|store|write|add|make|create|take|jot|put|leave|record|keep)(?: down)?(?: me| us)?"
_NOTE = r"(?:(?:a|an|the|another|my|new|quick|short|this|following) ){0,4}notes?"
_AS_NOTE = r"(?: down| (?:as|in|into|to|for) (?:(?:a|an|my|the|new) ){0,3}notes?)"
_NAMED = r"(?:,? (?:titled|called|named|entitled|with (?:the |a )?title)):?"
_TITLE = r"(?P<title>\"[^\"\n]{1,120}\"|“[^”\n]{1,120}”|[^:,\n\"]{1,120}?)"
_TITLED_LATER = r"(?:,? (?:and )?(?:with (?:the |a )?title|titled|(?:title|call) it):? (?P<title>[^\n]{1,120}?))?"
_COLON = r"(?:\s{0,9}[:—–]\s{0,9}| - )"
_SAYING = rf"(?:{_COLON}|,? (?:that says|saying|that reads|reading|with (?:the )?(?:content|text|body))\b:?\s{{0,9}})"
_CONTENT = r"(?P<content>.+?)(?:,? (?:and )?(?:with (?:the |a )?title|title it):? (?P<title>[^\n]{1,120}?))?"

# Words that stand for a result; the name of the group says which.
_RESULT = (
    r"(?P<all>(?:all of |all )?(?:them|these|those|both(?: of them)?|everything|all|the (?:results|answers)))"
    r"|(?P<weather>(?:the |that )?(?:weather|forecast|temperature)s?(?: report)?)"
    r"|(?P<found>(?:the |those )?search results|what you (?:found|find)|(?:the |your )?findings)"
    r"|(?P<sum>(?:the |that )?(?:sum|product|calculation|number|total|value))"
    r"|(?P<last>it|that|this|(?:a |the )?summary(?: of (?:it|that|this))?"
    r"|(?:the |that |this |your )?(?:last )?(?:result|answer|outcome|output))"
)
RESULT = compiled(rf"(?:{_RESULT})(?: too)?[.!?]?")
_THAT = re.sub(r"\?P<\w+>", "?:", _RESULT)

_ABOUT = r"(?:about|on|for|with|of|regarding|concerning|mentioning|containing|named|titled|called|that mention)"
_MY_NOTES = r"(?:(?:all|any|of|the|my|saved|our|every|some) ){0,4}notes"
_SAID = r"(?:note|noted|save|saved|write|written|wrote|say|said|jot|record|recorded|remember|tell you|told you)"
_LOOK_IN = (
    r"(?:find|search(?: through| in)?|show|list|get|look(?: up| for| in| through| at)?|check|read|open|fetch|see"
    r"|display|view|pull up|browse|go through|are there|is there|do i have|have i got|what are|what's in|what is in)"
)
_WEB = r"(?:on |in |through )?(?:the )?(?:web|internet|online|net)"
_NEWS = r"(?:info|information|news|articles?|facts?|details|updates?|headlines)"

SMALL_TALK = (
    ("greeting", "nothing", r"(?:hi|hello|hey|good (?:morning|afternoon|evening|day)|greetings|howdy)(?: there)?\W*"),
    (
        "thanks",
        "nothing",
        r"(?:many |ok |great )?(?:thanks|thank you|thx|cheers)(?: (?:a lot|so much|very much|again))?\W*",
    ),
    ("farewell", "nothing", r"(?:bye|goodbye|good ?night|see you(?: later)?|farewell)\W*"),
    (
        "about",
        "nothing",
        r"help(?: me)?\W*|(?:who|what) are you\b.*|what (?:can|do) you do\b.*|how (?:do|does) (?:you|this) work\b.*",
    ),
    (
        "about",
        "nothing",
        r"are you (?:(?:an?|really|the) )?(?:llm|large|language|ai|claude|chatgpt|gpt|gemini|bot|robot|human|real)\b.*",
    ),
    (
        "about",
        "nothing",
        r"(?:what|which) (?:ai |language )?model\b.*|(?:tell me about|introduce) yourself\b.*|how are you\b.*",
    ),
)
SAVING = (
    ("save", "note", rf"{_KEEP} {_NOTE}{_NAMED} {_TITLE}(?:{_SAYING}| (?=[\"“]))(?P<content>.+)"),
    ("save", "note", rf"{_KEEP} {_NOTE}{_SAYING}{_CONTENT}"),
    ("save", "note_what", rf"{_KEEP} {_NOTE} (?:with|of|containing) (?P<what>.+?){_TITLED_LATER}"),
    ("save", "note", rf"{_KEEP} {_NOTE}(?:,|\s{{0,9}}\n|(?: (?:that|to|about|for)\b)|(?= [\"“]))\s{{0,9}}{_CONTENT}"),
    ("save", "note_here", rf"{_KEEP} {_NOTE}(?:{_NAMED} {_TITLE})?[.!]?"),
    (
        "save",
        "note",
        rf"(?:save|store|keep|record|note|remember|write|jot) (?P<content>{_THAT})"
        rf"{_AS_NOTE}?{_TITLED_LATER}(?: too)?[.!]?",
    ),
    ("save", "note_here", r"save(?: too)?[.!]?"),
    (
        "save",
        "note",
        rf"note(?: to (?:self|myself))?(?: this| the following)?(?: down)?(?:{_COLON}|,? that |, )(?P<content>.+)",
    ),
    ("save", "note", r"(?:note|write|jot|put)(?: this| the following)? down(?: that)?[:,]? (?P<content>.+)"),
    ("save", "note", rf"{_KEEP} (?:this|the following){_AS_NOTE}?{_COLON}(?P<content>.+)"),
    ("save", "note_what", rf"{_KEEP} (?P<what>.+?){_AS_NOTE}(?:{_NAMED} (?P<title>[^\n]{{1,120}}?))?[.!]?"),
    (
        "save",
        "note",
        r"(?:remember|memori[sz]e|keep in mind|don't (?:let me )?forget)(?: that\b| to\b| this:|:)? "
        r"(?!what|when|where|who|how|if|whether|me\b)(?P<content>.+)",
    ),
)
FINDING = (
    (
        "find",
        "find",
        rf"(?:{_LOOK_IN}(?: me)? )?{_MY_NOTES}(?: (?:that )?(?:i|we)(?:'ve| have)? \w{{2,9}})?"
        rf"(?:,?(?: {_ABOUT}|:) (?P<query>.+))?[?.!]?",
    ),
    (
        "find",
        "find",
        rf"(?:{_LOOK_IN}(?: me)? )(?:the|a|any|my|that) note(?: (?:that )?i \w{{2,9}})? {_ABOUT} (?P<query>.+)",
    ),
    (
        "find",
        "find",
        r"(?:find|search(?: for)?|look for|look up) (?P<query>.+?) (?:in|from|among) (?:my|the) (?:saved )?notes[?.!]?",
    ),
    (
        "find",
        "find",
        rf"what (?:did|have|had) i (?:ask you to )?{_SAID}(?: down)?(?: (?:in|to) (?:my|the) notes?)?"
        r"(?: (?:about|on|for|regarding) (?P<query>.+))?[?.!]?",
    ),
    ("find", "find", r"what (?:do|does|did) (?:my|the) notes? say(?: (?:about|on) (?P<query>.+))?[?.!]?"),
    (
        "find",
        "find",
        rf"(?:do you (?:remember|recall)|recall|remind me)(?: of)? "
        rf"(?:what i (?:have )?{_SAID} about|anything about|about) (?P<query>.+)",
    ),
    ("find", "find", r"(?:is there )?anything (?:in my notes )?(?:about|on) (?P<query>.+?) in my notes[?.!]?"),
)
LOOKUPS = (
    (
        "weather",
        "weather",
        rf"(?:{_ASK} )?{_FORECAST}(?: be)?(?: (?:like|looking|doing))?(?: (?:going to|gonna) be(?: like)?)?"
        rf"(?: {WHEN}){{0,3}}(?: {_IN} (?P<cities>.+))?[?.!]?",
    ),
    ("weather", "city_weather", r"(?:weather|forecast|temperature):? (?P<cities>.{1,200})"),
    (
        "weather",
        "city_weather",
        rf"(?:{_ASK} )?(?:the )?(?P<cities>[^\W\d_][\w\s.\x27’-]{{1,40}}?)(?:'s)? (?:current |latest )?"
        rf"(?:weather|forecast|temperature)(?: forecast| report)?(?: {WHEN}){{0,3}}[?.!]?",
    ),
    (
        "weather",
        "weather",
        rf"how (?:hot|cold|warm|windy|humid|wet|chilly) (?:is it|will it be|is it going to be){_CITIES}",
    ),
    (
        "weather",
        "weather",
        r"(?:is|will|does) it (?:(?:be|going|to|currently) ){0,3}"
        rf"(?:rain|snow|hail|storm|sun|cold|hot|warm|wind|cloud|fog|freez|nice)\w{{0,5}}{_CITIES}",
    ),
    ("weather", "weather", rf"(?:do i|will i|should i) (?:need|take|bring|wear) an? \w{{3,12}}{_CITIES}"),
    ("search", "search", rf"(?:find|look for|look up|check|see)(?: out)? (?P<query>.+?) {_WEB}[?.!]?"),
    (
        "search",
        "search",
        rf"(?:(?:do|run|make|try) )?(?:an? )?(?:quick )?(?:(?:search|look|browse) {_WEB}"
        r"|(?:web|internet|online|google) search|search|google|bing)(?: (?:for|about|on|to find))?:? (?P<query>.+)",
    ),
    (
        "search",
        "search",
        r"(?:find|get|fetch|look for)(?: me)?(?: (?:some|any|the|more|latest)){0,2} "
        rf"{_NEWS} (?:about|on|regarding|for|of) (?P<query>.+)",
    ),
    ("search", "search", r"look up (?P<query>.+)"),
    ("search", "search", r"look (?P<query>.{1,200}) up[?.!]?"),
    (
        "search",
        "search",
        r"what(?:'s|s| is) (?:new|the latest(?: news)?|happening|going on) (?:about|with|in|on|at|from) (?P<query>.+)",
    ),
    (
        "search",
        "search",
        r"(?:(?:what|any|is|are|there|the|some|latest|recent|current|'s) ){0,4}"
        r"news (?:about|on|from|regarding|of) (?P<query>.+)",
    ),
    (
        "sum",
        "sum",
        r"(?:what(?:'s|s| is| are| does| do| would be)?|how much(?: is| are| would be)?|how many (?:is|are)"
        r"|calculate|compute|evaluate|work out|solve|figure out|find|determine|get|do):? "
        r"(?P<sum>.{1,2000}?)(?: (?:is|are|equals?(?: to)?|make|come to))?[?.!]?",
    ),
    ("sum", "raw_sum", r"(?:calculate|compute|evaluate):? (?P<sum>[\w+*/^%(.,√π-](?:[\s+*/^%()!.,-]|\w){0,200})"),
    (
        "sum",
        "sum",
        r"(?P<sum>(?:double|triple|halve|square|cube|add|subtract|take|deduct|multiply|divide|raise|increase|decrease|reduce)\b.{0,2000})",
    ),
)
BARE = (("sum", "sum", r"(?P<sum>.{2,2000})"),)
