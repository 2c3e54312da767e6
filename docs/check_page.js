// What a page finds wrong with itself: a list of sentences. `check_site.py` runs this in every page.
(wide) => {
  const found = []
  const say = (what, element) => {
    const name = element.tagName.toLowerCase() + (element.className && element.className.split ? "." + element.className.split(" ").join(".") : "")
    found.push(`${what}: ${name} "${(element.innerText || element.alt || "").trim().slice(0, 60)}"`)
  }
  const root = document.documentElement
  if (root.scrollWidth > window.innerWidth) found.push(`the page is ${root.scrollWidth} px wide`)
  const scrolls = (element) => {
    for (let one = element; one && one !== document.body; one = one.parentElement)
      if (/auto|scroll|hidden|clip/.test(getComputedStyle(one).overflowX)) return true
    return false
  }
  const content = document.querySelector(".md-content")
  for (const element of content.querySelectorAll("*")) {
    const box = element.getBoundingClientRect()
    if (box.width && box.right > window.innerWidth + 1 && !scrolls(element)) say("wider than the window", element)
  }
  for (const code of content.querySelectorAll("pre > code"))
    if (wide && code.scrollWidth > code.clientWidth + 1) say(`code scrolls sideways by ${code.scrollWidth - code.clientWidth} px`, code)
  for (const table of content.querySelectorAll("table")) {
    const hidden = table.getBoundingClientRect().right - content.getBoundingClientRect().right
    if (hidden > 1 && !scrolls(table)) say("a table's columns cannot be reached", table)
    if (hidden > 1 && !wide && !table.className) say(`a table scrolls sideways by ${Math.round(hidden)} px`, table)
  }
  for (const image of content.querySelectorAll("img")) if (image.complete && !image.naturalWidth) say("no picture", image)
  for (const formula of content.querySelectorAll(".formula")) if (!formula.querySelector(".katex")) say("not typeset", formula)
  for (const formula of content.querySelectorAll(".katex-error")) say("an error of KaTeX's", formula)

  const formula = content.querySelector(".formula .katex")
  if (formula) {
    const range = document.createRange()
    range.selectNode(formula)
    getSelection().removeAllRanges()
    getSelection().addRange(range)
    const copied = new DataTransfer()
    formula.dispatchEvent(new ClipboardEvent("copy", { clipboardData: copied, bubbles: true, cancelable: true }))
    getSelection().removeAllRanges()
    if (!copied.getData("text/plain").startsWith("$")) say("not copied as LaTeX", formula)
  }

  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true })
  const known = new Map()
  const rgba = (colour) => {
    if (!known.has(colour)) {
      canvas.clearRect(0, 0, 1, 1)
      canvas.fillStyle = colour
      canvas.fillRect(0, 0, 1, 1)
      const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data
      known.set(colour, [r, g, b, a / 255])
    }
    return known.get(colour)
  }
  const over = (above, below) => [0, 1, 2].map((n) => above[n] * above[3] + below[n] * (1 - above[3])).concat(1)
  const ground = (element) => {
    const layers = []
    for (let one = element; one; one = one.parentElement) {
      const colour = rgba(getComputedStyle(one).backgroundColor)
      if (colour[3]) layers.push(colour)
      if (colour[3] === 1) break
    }
    return layers.reverse().reduce((below, above) => over(above, below), [255, 255, 255, 1])
  }
  const luminance = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((one) => one / 255).map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const faint = new Map()
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const text = walker.currentNode
    const element = text.parentElement
    if (!text.data.trim() || element.closest("script, style, svg, .katex-mathml, .headerlink, [hidden]")) continue
    const style = getComputedStyle(element)
    if (!element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true }) || !element.getClientRects().length) continue
    const below = ground(element)
    const colour = over(rgba(style.color), below)
    const [light, dark] = [luminance(colour), luminance(below)].sort((a, b) => b - a)
    const ratio = (light + 0.05) / (dark + 0.05)
    const size = parseFloat(style.fontSize)
    const large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700)
    if (ratio < (large ? 3 : 4.5)) {
      const key = `${element.tagName}.${element.className} ${style.color} on ${below}`
      if (!faint.has(key)) faint.set(key, `contrast ${ratio.toFixed(2)}: ${key} "${text.data.trim().slice(0, 40)}"`)
    }
  }
  return found.concat([...faint.values()])
}
