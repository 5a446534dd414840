// WCAG 2.2, 1.4.3 (text: 4.5, large text: 3), of every text against what is painted behind it.
(() => {
  const channels = (color) => color.match(/[\d.]+/g).map(Number);
  const luminance = (rgb) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb.map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (let up = node; up; up = up.parentElement) {
      const [r, g, b, a] = channels(getComputedStyle(up).backgroundColor);
      if (a === undefined || a > 0) return [r, g, b];
    }
    return channels(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  };
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || !node.checkVisibility()) continue;
    if (node.matches('script, style, title')) continue;
    const style = getComputedStyle(node);
    const text = channels(node.namespaceURI.endsWith('svg') ? style.fill : style.color).slice(0, 3);
    const [l, m] = [luminance(text), luminance(behind(node))].sort((p, q) => q - p);
    const size = parseFloat(style.fontSize);
    const large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    const ratio = (l + 0.05) / (m + 0.05);
    if (ratio < (large ? 3 : 4.5)) found.set(`${node.tagName}.${node.getAttribute('class')}`, ratio);
  }
  return Object.fromEntries(found);
})()
