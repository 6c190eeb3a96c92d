"""Which encoding a list of titles is read in, by real words of many languages."""

import pytest

from grpo_mmpc.catalogue.sources.encodings import guess_encoding

TITLES = {
    ("Spanish", "cp1252"): "Taza de café para niño|Sartén de hierro|Cojín clásico|Paño de algodón|Señal de baño",
    ("Portuguese", "cp1252"): "Chávena de café|Panela de pressão|Lençóis de algodão|Almofada média|Relógio para mãe",
    ("French", "cp1252"): "Tasse à café en grès|Poêle à frire|Rideau occultant|Étagère très légère|Boîte hermétique",
    ("German", "cp1252"): "Müslischale aus Steingut|Bräter für Öfen|Küchentuch|Weiße Schürze|Große Schüssel",
    ("Italian", "cp1252"): "Tazza da caffè|Qualità più alta|Asciugamano in bambù|Città di lino|Tè e tisane",
    ("Danish", "cp1252"): "Smørkniv af stål|Grå håndklæde|Rød kaffekrus|Låg til gryde|Æggebæger",
    ("Norwegian", "cp1252"): "Blå kopp i steintøy|Støpejern stekepanne|Badehåndkle|Brødkniv|Grøtskål",
    ("Swedish", "cp1252"): "Blå mugg med öra|Gjutjärn|Påslakan|Brödkniv av stål|Skål för gröt",
    ("Dutch", "cp1252"): "Geëmailleerde pan|Café mok|Eéndelig servies|Crème kleed|Mok met oor",
    ("Finnish", "cp1252"): "Pöytälamppu|Pehmeä pyyhe|Seinäkello|Leipäveitsi|Keittiömatto",
    ("Catalan", "cp1252"): "Tassa de cafè|Làmpada de taula|Coixí de cotó|Cistella de bambú|Paella per a inducció",
    ("Icelandic", "cp1252"): "Kaffibolli úr leir|Brauðhnífur|Baðhandklæði|Púði með blómum|Þvottakarfa",
    ("English", "cp1252"): "Café mug|Pan 10½ in|Rug 3 m²|Jalapeño “hot” sauce|Lamp 25°",
    ("Polish", "cp1250"): "Kubek na herbatę|Ręcznik żółty|Nóż do chleba ze stali|Łyżka|Poszewka na poduszkę",
    ("Czech", "cp1250"): "Hrnek na čaj|Nůž na chléb|Ručník žlutý|Křeslo|Přikrývka dětská",
    ("Slovak", "cp1250"): "Hrnček na čaj|Nôž na chlieb|Ľanový uterák|Prikrývka detská|Žltá stolička",
    ("Hungarian", "cp1250"): "Kávéscsésze füllel|Törölköző|Főzőedény|Kenyérvágó kés|Gyűrött huzat",
    ("Romanian", "cp1250"): "Cană de cafea|Cuţit de pâine|Prosop mătăsos|Pernă în dungi|Faţă de masă",
    ("Croatian", "cp1250"): "Šalica za čaj|Nož za kruh|Ručnik žuti|Kućna rasvjeta|Posuđe",
    ("Turkish", "cp1254"): "Kahve fincanı|Döküm tava|Işıklı lamba|Yumuşak havlu|Çelik bıçak",  # noqa: RUF001
    ("Russian", "cp1251"): "Чайник стальной|Кружка для кофе|Полотенце махровое|Нож для хлеба|Лампа",
    ("Ukrainian", "cp1251"): "Чашка для кави|Рушник м'який|Ніж для хліба|Світильник|Їдальня",
    ("Bulgarian", "cp1251"): "Чаша за кафе|Хавлиена кърпа|Нож за хляб|Възглавница|Тиган",
    ("Greek", "cp1253"): "Κούπα καφέ|Πετσέτα μπάνιου|Μαχαίρι ψωμιού|Βραστήρας|Μαξιλάρι",
    ("Japanese", "cp932"): "電気ケトル|コーヒーカップ|バスタオル|パン切り包丁|テーブルランプ",
    ("Chinese", "gb18030"): "不锈钢水壶|咖啡杯|纯棉浴巾|面包刀|木制台灯",
    ("Korean", "cp949"): "스테인리스 주전자|커피 머그잔|목욕 수건|빵칼|탁상용 램프",
}


@pytest.mark.parametrize("rows", [5, 40, 200])
@pytest.mark.parametrize(("language", "encoding"), TITLES)
def test_titles_are_read_as_they_were_written(language, encoding, rows):
    titles = TITLES[language, encoding].split("|")
    text = "".join(f"{row};{titles[row % len(titles)]};{row},50;a.png\r\n" for row in range(rows))
    content = text.encode(encoding)
    guessed = guess_encoding(content)
    assert guessed is not None and content.decode(guessed) == text


def test_a_foreign_name_or_a_byte_that_is_no_letter_changes_nothing():
    spanish = "Taza de café para niño;Cojín clásico;Paño de algodón;Lámpara de jardín;Sartén\n" * 2
    assert guess_encoding(spanish.encode("cp1252") + b"\x8aKODA Smr\xf8rk\n\x81") == "cp1252"


def test_languages_of_western_europe_may_be_mixed():
    mixed = "Weiße Schürze;Tasse à café;Città più bella;Große Schüssel;Étagère très légère;Müslischale"
    assert guess_encoding(mixed.encode("cp1252")) == "cp1252"


def test_a_few_western_names_leave_an_eastern_list_what_it_is():
    croatian = "Šalica za čaj;Nož za kruh;Ručnik žuti;Kućna rasvjeta;Posuđe;Müller;Röhr"
    assert guess_encoding(croatian.encode("cp1250")) == "cp1250"
