package main

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
)

// pair starts the program and opens both devices' pages, online and in step.
func pair(t *testing.T) (p *program, a, b *tab) {
	t.Helper()
	br := openBrowser(t)
	p = start(t, t.TempDir())
	a, b = br.open(p.a), br.open(p.b)
	a.synced()
	b.synced()
	return p, a, b
}

func TestListsAreMadeByKeyboardAndAppearOnTheOtherDevice(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	a.tabTo("#add-list")
	a.keys("Groceries" + kb.Enter)
	a.shows("# Groceries")
	b.shows("# Groceries")
	a.wait(`document.activeElement.id === "add-list" && document.activeElement.value === ""`)

	a.tabTo("section.list form.add input")
	a.keys("Milk" + kb.Enter + "Bread" + kb.Enter + "Eggs" + kb.Enter)
	a.shows("# Groceries", "[ ] Milk", "[ ] Bread", "[ ] Eggs")
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread", "[ ] Eggs")

	a.tabTo(item(a, "Bread", ".tick"))
	a.keys(" ")
	b.shows("# Groceries", "[ ] Milk", "[x] Bread", "[ ] Eggs")
	a.wait(`document.activeElement.matches(".tick[aria-checked=true]")`) // the focus stays
	a.keys(" ")
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread", "[ ] Eggs")

	a.tabTo(item(a, "Eggs", "summary"))
	a.keys(kb.Enter)
	a.wait(`document.activeElement.matches("details[open] input")`)
	a.keys("Nonsense" + kb.Escape)
	a.wait(`document.activeElement.matches("summary") && !document.querySelector("details[open]")`)
	a.keys(kb.Enter)
	a.wait(`document.activeElement.matches("details[open] input") && document.activeElement.value === "Eggs"`)
	a.keys("Six eggs" + kb.Enter)
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread", "[ ] Six eggs")
	a.wait(`document.activeElement.matches("summary")`)

	a.tabTo(item(a, "Bread", ".remove"))
	a.keys(kb.Enter)
	b.shows("# Groceries", "[ ] Milk", "[ ] Six eggs")
	a.wait(`document.activeElement.ariaLabel === "Delete Six eggs"`) // the next row's
	a.tabTo("section.list .head .remove")
	a.keys(kb.Enter)
	a.shows()
	b.shows()
	a.synced()
	a.wait(`document.activeElement.id === "add-list"`)
}

func TestTwoDevicesEditOfflineAndConverge(t *testing.T) {
	t.Parallel()
	p, a, b := pair(t)
	a.add("#add-list", "Groceries")
	a.wait(`document.querySelector("section.list form.add")`)
	a.add("section.list form.add input[name=text]", "Milk", "Bread")
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread")
	a.synced()

	a.online(false)
	b.online(false)
	a.wait(`document.querySelector(".pill.offline")`)
	a.rename("Milk", "Oat milk")
	a.add("section.list form.add input[name=text]", "Apples")
	a.add("#add-list", "Holidays")
	a.shows("# Groceries", "[ ] Oat milk", "[ ] Bread", "[ ] Apples", "# Holidays")
	a.wait(`document.querySelector(".pending")?.innerText === "3 unsent" && document.querySelectorAll(".unsent").length === 3`)
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread")
	b.rename("Milk", "Soy milk") // the later of the two
	b.press(item(b, "Bread", ".remove"))
	b.add("section.list form.add input[name=text]", "Pears")
	b.shows("# Groceries", "[ ] Soy milk", "[ ] Pears")
	a.shoot(desktop, "offline-a")
	b.shoot(phoneDark, "offline-b")
	b.see(desktop)

	b.online(true)
	b.synced()
	a.online(true)
	a.synced()
	want := []string{"# Groceries", "[ ] Soy milk", "[ ] Apples", "[ ] Pears", "# Holidays"}
	a.shows(want...)
	b.shows(want...)
	const dom = `document.querySelector(".lists").outerHTML.replace(/ (data-htmx-powered|class)="[^"]*"/g, "")`
	if x, y := value[string](a, dom), value[string](b, dom); x != y {
		t.Errorf("the pages differ:\n%s\n%s", x, y)
	}
	a.wait(`document.querySelector(".verdicts .code")?.innerText === "superseded" && document.querySelector(".tried")?.innerText.includes("Oat milk")`)
	a.shoot(desktopDark, "converged-a")
	a.press(".verdicts [id^=retry-]") // but A insists
	b.shows("# Groceries", "[ ] Oat milk", "[ ] Apples", "[ ] Pears", "# Holidays")
	a.wait(`!document.querySelector(".verdicts")`)

	both := (&browser{t: t, ctx: a.ctx}).open(p.home)
	both.wait(`document.querySelectorAll("iframe").length === 2`)
	both.shoot(wide, "overview")
}

func TestARejectionIsShownAndTakenBack(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	a.add("#add-list", "Groceries")
	a.wait(`document.querySelector("section.list form.add")`)
	a.add("section.list form.add input[name=text]", "Milk")
	b.shows("# Groceries", "[ ] Milk")
	long := strings.Repeat("Milk ", 20) + "."

	a.online(false)
	a.rename("Milk", long)
	a.shows("# Groceries", "[ ] "+long) // believed, while nobody says otherwise
	a.online(true)
	a.wait(`document.querySelector(".verdicts .code")?.innerText === "text-too-long"`)
	a.wait(`document.querySelector(".verdicts .message")?.innerText.includes("more than 80 characters")`)
	a.wait(`document.querySelector(".verdicts .tried")?.innerText.includes("call the item “Milk Milk")`)
	a.shows("# Groceries", "[ ] Milk")
	b.shows("# Groceries", "[ ] Milk")
	a.shoot(desktop, "rejected")
	a.shoot(phone, "rejected")
	a.see(desktop)

	first := value[string](a, `document.querySelector(".verdicts li").id`)
	a.press(".verdicts [id^=retry-]") // the server has not changed its mind
	a.wait(`document.querySelector(".verdicts li") && document.querySelector(".verdicts li").id !== ` + quote(first))
	a.press(".verdicts [id^=discard-]")
	a.wait(`!document.querySelector(".verdicts")`)
	a.synced()
	a.shows("# Groceries", "[ ] Milk")
}

func TestAListThatIsInUseElsewhereComesBack(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	a.add("#add-list", "Groceries")
	a.wait(`document.querySelector("section.list form.add")`)
	a.add("section.list form.add input[name=text]", "Milk")
	b.shows("# Groceries", "[ ] Milk")
	a.synced()

	a.online(false)
	b.online(false)
	a.press("section.list .head .remove")
	a.shows()
	b.add("section.list form.add input[name=text]", "Bread")
	b.online(true)
	b.synced()
	a.online(true) // the database's foreign key keeps the list that Bread is in
	a.wait(`document.querySelector(".verdicts .code")?.innerText === "constraint" && document.querySelector(".tried")?.innerText.includes("delete the list")`)
	a.shows("# Groceries", "[ ] Bread")
	b.shows("# Groceries", "[ ] Bread")
}

func TestTypingIsNotDisturbedByTheOtherDevice(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	a.add("#add-list", "Groceries")
	a.wait(`document.querySelector("section.list form.add")`)
	a.add("section.list form.add input[name=text]", "Milk", "Bread")
	b.shows("# Groceries", "[ ] Milk", "[ ] Bread")
	add := "section.list form.add input[name=text]"

	a.do(chromedp.Focus(chromedp.CSS(add)))
	a.keys("Half a word")
	value[any](a, `document.activeElement.setSelectionRange(2, 5)`)
	const typing = `[document.activeElement.id, document.activeElement.value, document.activeElement.selectionStart, document.activeElement.selectionEnd].join()`
	before := value[string](a, typing)
	b.add(add, "Eggs")
	b.press(item(b, "Milk", ".remove"))
	a.shows("# Groceries", "[ ] Bread", "[ ] Eggs")
	if after := value[string](a, typing); after != before {
		t.Errorf("typing was at %s, and is at %s", before, after)
	}

	a.press(item(a, "Bread", "summary"))
	a.wait(`document.activeElement.matches("details[open] input")`)
	a.keys("Brown")
	b.rename("Bread", "White bread")
	a.wait(`[...document.querySelectorAll(".text")].some(t => t.textContent === "White bread")`)
	a.wait(`document.activeElement.matches("details[open] input") && document.activeElement.value === "Brown"`)
	a.keys(" bread" + kb.Enter)
	b.shows("# Groceries", "[ ] Brown bread", "[ ] Eggs")
}

func TestLinesTypedFasterThanAnyAnswerAllArrive(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	value[any](a, `for (const name of ["1", "2", "3", "4", "5"]) {
		const input = document.getElementById("add-list");
		input.value = name;
		input.form.requestSubmit();
	}`)
	b.shows("# 1", "# 2", "# 3", "# 4", "# 5")
}

func TestNothingIsLostWhenTheProgramIsKilled(t *testing.T) {
	t.Parallel()
	br := openBrowser(t)
	dir := t.TempDir()
	p := start(t, dir)
	a, b := br.open(p.a), br.open(p.b)
	a.add("#add-list", "Groceries")
	b.shows("# Groceries")
	a.synced()
	a.online(false)
	a.add("section.list form.add input[name=text]", "Milk", "Bread")
	a.press("section.list summary")
	a.wait(`document.activeElement.matches("details[open] input")`)
	a.keys("Food" + kb.Enter)
	a.shows("# Food", "[ ] Milk", "[ ] Bread")
	a.do(chromedp.Focus(chromedp.CSS("#add-list")))
	a.keys("Half a word")
	p.kill()
	a.wait(`document.body.matches(".lost-device") && document.querySelector(".lost").checkVisibility()`)
	a.keys(kb.Enter) // to nobody
	a.wait(`!document.getElementById("flash").hidden && document.getElementById("add-list").value === "Half a word"`)

	p = p.again(dir)
	a.wait(`!document.body.matches(".lost-device")`) // the page finds its way back by itself
	a.synced()
	a.shows("# Food", "[ ] Milk", "[ ] Bread")
	b.shows("# Food", "[ ] Milk", "[ ] Bread")
	if err := p.interrupt(); err != nil {
		t.Errorf("%v\n%s", err, &p.stderr)
	}
}

func TestAPhoneHasRoomForEverything(t *testing.T) {
	t.Parallel()
	_, a, b := pair(t)
	a.add("#add-list", "Things that we need for the journey to the sea")
	a.wait(`document.querySelector("section.list form.add")`)
	a.add("section.list form.add input[name=text]", "Book the ferry, the one at ten", strings.Repeat("wide", 19), "Sun cream")
	a.wait(`document.querySelectorAll("li.item").length === 3`)
	a.press(item(a, "Sun cream", ".tick"))
	b.wait(`document.querySelector(".tick[aria-checked=true]")`)
	a.synced()
	for _, l := range []look{phone, phoneDark, desktop, desktopDark} {
		a.see(l)
		b.see(l)
		a.shoot(l, "device-a")
		b.shoot(l, "device-b")
		for _, p := range []*tab{a, b} {
			if over := value[float64](p, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
				t.Errorf("%s: the page is %v pixels wider than the screen", l.name, over)
			}
			if small := value[string](p, smallTargets); small != "" {
				t.Errorf("%s: too small for a finger: %s", l.name, small)
			}
			if dim := value[string](p, unlabelled); dim != "" {
				t.Errorf("%s: without a name for a screen reader: %s", l.name, dim)
			}
		}
	}
	a.see(phone)
	a.press(item(a, "Sun cream", "summary"))
	a.wait(`document.activeElement.matches("details[open] input")`)
	a.shoot(phone, "editing")
	if over := value[float64](a, `document.documentElement.scrollWidth - document.documentElement.clientWidth`); over > 0 {
		t.Errorf("editing: the page is %v pixels wider than the screen", over)
	}
}

// smallTargets lists what is visible, can be touched and is under 44 pixels.
const smallTargets = `[...document.querySelectorAll("button, summary, a, input:not([type=hidden])")]
	.filter(e => e.checkVisibility())
	.filter(e => { const r = e.getBoundingClientRect(); return r.height < 44 || r.width < 44 })
	.map(e => e.outerHTML).join("\n")`

// unlabelled lists fields and buttons that have neither text nor a label.
const unlabelled = `[...document.querySelectorAll("button, input:not([type=hidden])")]
	.filter(e => !(e.ariaLabel || e.textContent.trim()))
	.map(e => e.outerHTML).join("\n")`
