"""Letters that look like Latin ones but are others to Unicode, and what nobody sees.

NFKC covers what Unicode itself calls compatible (full-width, mathematical, circled letters); the
tables here hold what it keeps apart. Lower case only: texts are lowered first.
"""

_PAIRS = (
    # Cyrillic, upper-case look-alikes by their lower case
    "аa вb еe кk мm нh оo рp сc тt уy хx іi јj ѕs ԁd һh ԛq ԝw ӏl ԍg ѵv ґr ҽe ԑe ҡk ҝk ҟk ӄk ӿx ҳx "
    "ѡw ԋh ԓh ңh ӊh ӈh ҥh ҏp ҫc ҭt үy ұy ӽx ӡ3 з3 ьb ъb пn лn иn цu шw щw гr є3 эe "
    # Greek
    "αa βb γy εe ζz ηn θ0 ιi κk μu νv οo ρp σo τt υu χx ωw ϲc ϳj ϱp ϵe "
    # Latin of other lists, small capitals, strokes
    "ıi ȷj ɑa ɡg ɩi ʟl ɪi ʏy ʀr ɴn ɢg ʜh ʙb ᴀa ᴄc ᴅd ᴇe ᴊj ᴋk ᴍm ᴏo ᴘp ᴛt ᴜu ᴠv ᴡw ᴢz ꜱs ꜰf "
    "øo łl đd ħh ŧt ƀb ɓb ƈc ɗd ƒf ɠg ɦh ɨi ƙk ɱm ɲn ƥp ʂs ƭt ʋv ƴy ʐz ɛe ǝe ɐa ʌv ʍw ʎy ɯm ɹr "
    # Armenian, Cherokee, Lisu, Coptic
    "օo սu հh ոn տs զq ցg յj Ꭺa Ᏼb Ꮯc Ꭰd Ꭼe Ꮐg Ꮋh Ꭵi Ꭻj Ꮶk Ꮮl Ꮇm Ꮲp Ꮪs Ꭲt Ꮩv Ꮃw Ꮓz "
    "ꓮa ꓐb ꓚc ꓓd ꓰe ꓝf ꓖg ꓧh ꓲi ꓙj ꓗk ꓡl ꓟm ꓠn ꓳo ꓑp ꓣr ꓢs ꓔt ꓴu ꓦv ꓪw ꓫx ꓬy ꓜz ⲟo ⲣp ⲥc"
)
LOOKALIKES = {pair[0]: pair[1] for pair in _PAIRS.split()}
"""Letter -> Latin letter or digit that a reader takes it for."""

INVISIBLE = (
    "\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0"  # joiners and fillers that are letters or marks
    + "".join(map(chr, range(0x180B, 0x1810)))  # Mongolian variation selectors
    + "".join(map(chr, range(0xFE00, 0xFE10)))
    + "".join(map(chr, range(0xE0100, 0xE01F0)))
)
"""Besides the categories Cf and Cc."""

MARKS = ((0x0300, 0x036F), (0x1AB0, 0x1AFF), (0x1DC0, 0x1DFF), (0x20D0, 0x20FF), (0xFE20, 0xFE2F))
"""Blocks of combining marks that are put on any letter. Marks that spell vowels stay."""

ALPHABETS = (0x1F1E6, 0x1F150, 0x1F170)
"""First code points of A to Z in boxes, which NFKC does not know."""
