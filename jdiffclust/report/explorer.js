'use strict';
// The living part of a run's page: the map, the search, the lists, one image at a time.
//
// All it knows is the JSON in #data, made by explorer.py: columns by name, a cell for each
// image that is shown. An image is its place in these columns. Texts come from outside
// (files, labels, names): they become text nodes, never markup.
//
// The map is drawn on a plain canvas, without a library: those that draw as many points
// need WebGL, which remote desktops and old machines lack, and know no sheets of tiles.
//
//   state -> choose(): which images; refresh(): the map, the list, the controls follow.
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const count = data.file.length;
  const byId = (id) => document.getElementById(id);
  const clusterOf = new Map(data.clusters.map((one) => [one.number, one]));
  const titleOf = (number) => clusterOf.get(number)?.title ?? `Cluster ${number}`;
  const percent = (share) => `${(100 * share).toFixed(1)}\u00a0%`;
  const pinned = new Set(data.pinned);
  const own = count - data.added; // images of the fit; those that were added come last
  const isAdded = (image) => image >= own;
  const [FIRST, MORE] = [48, 240]; // images that are listed at first, and further ones

  const state = {
    filter: { kind: 'all' }, query: '', order: 'typical', picked: null, listed: FIRST,
    added: true, // whether images that were added are shown
  };
  let shown = []; // the images that the filter and the query leave, in order
  let isShown = new Uint8Array(count).fill(1);

  // -------------------------------------------------------------------- elements

  function element(tag, properties = {}, ...children) {
    const { data: attributes = {}, ...rest } = properties;
    const made = Object.assign(document.createElement(tag), rest);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // A file name is broken after _ and -, rather than within words.
  const broken = (name) => (name.match(/[^_-]+[_-]*|[_-]+/g) ?? []).flatMap(
    (part, k) => (k ? [element('wbr'), part] : [part]));

  const shortName = (file) => {
    const name = file.split('/').filter(Boolean).pop() ?? file;
    return name.length <= 20 ? name : `…${name.slice(-19)}`;
  };

  // Which tile shows an image, the larger one if there is one.
  function tileOf(image, large) {
    const close = large ? data.close[image] : undefined;
    const name = close !== undefined ? 'close' : isAdded(image) ? 'added' : 'images';
    const place = close ?? (isAdded(image) ? image - own : image);
    const tiles = data.tiles[name];
    const each = tiles.columns ** 2;
    return {
      name, sheet: Math.floor(place / each), side: tiles.side,
      column: place % tiles.columns, row: Math.floor((place % each) / tiles.columns),
      height: tiles.heights ? tiles.heights[place] : tiles.side,
      width: tiles.widths ? tiles.widths[place] : tiles.side,
    };
  }

  function picture(image, large = true) {
    const tile = tileOf(image, large);
    const made = element('i', { className: `t t-${tile.name}-${tile.sheet}` });
    made.style.setProperty('--x', tile.column);
    made.style.setProperty('--y', tile.row);
    const cut = (size) => `${50 * (1 - size / tile.side)}%`;
    if (tile.height < tile.side || tile.width < tile.side) {
      made.style.clipPath = `inset(${cut(tile.height)} ${cut(tile.width)})`;
    }
    return made;
  }

  function pick(image, more = '') {
    const button = element('button', {
      type: 'button', className: 'pick', title: data.file[image],
      data: { 'data-image': image } }, picture(image),
    element('span', { className: 'name' }, ...broken(shortName(data.file[image]))));
    if (more) button.append(element('span', { className: 'more', textContent: more }));
    if (isAdded(image)) {
      button.append(element('span', { className: 'more mark', textContent: 'added' }));
    }
    return element('li', {}, button);
  }

  const picks = (images, more = () => '') =>
    element('ul', { className: 'tiles' }, ...images.map((image, k) => pick(image, more(image, k))));

  // ------------------------------------------------------------ what is to be shown

  const inLasso = (image, polygon) => {
    let inside = false;
    const [x, y] = [data.x[image], data.y[image]];
    for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
      const [[x0, y0], [x1, y1]] = [polygon[i], polygon[j]];
      if ((y0 > y) !== (y1 > y) && x < ((x1 - x0) * (y - y0)) / (y1 - y0) + x0) inside = !inside;
    }
    return inside;
  };

  // Kind of a filter -> whether it leaves an image, and what the list is called.
  const FILTERS = {
    all: { keeps: () => true, title: () => 'All images' },
    torn: {
      keeps: (image) => data.probability[image] < data.torn && !pinned.has(image),
      title: () => 'Images torn between clusters' },
    foreign: { keeps: (image) => image in data.why, title: () => 'Images unlike all others' },
    copies: {
      keeps: (image) => image in data.copy || originals.has(data.file[image]),
      title: () => 'Copies and what they repeat' },
    pinned: { keeps: (image) => pinned.has(image), title: () => 'Images pinned by hand' },
    added: { keeps: isAdded, title: () => 'Images added after the fit' },
    cluster: {
      keeps: (image, filter) => data.cluster[image] === filter.number,
      title: (filter) => titleOf(filter.number) },
    cell: {
      keeps: (image, filter) => data.cluster[image] === filter.number
        && data.label[image] === filter.label,
      title: (filter) => `Label ${filter.label} in ${titleOf(filter.number)}` },
    lasso: {
      keeps: (image, filter) => filter.images.has(image),
      title: () => 'Images within the lasso' },
  };
  const originals = new Set(Object.values(data.copy).map(([file]) => file));

  const haystacks = data.file.map((file, image) => [
    file, data.label?.[image] ?? '',
    ...Object.values(data.metadata ?? {}).map((cells) => cells[image]),
  ].join('\n').normalize('NFC').toLowerCase());

  const size = (image) => clusterOf.get(data.cluster[image])?.size ?? 1;
  const ORDERS = {
    typical: (a, b) => data.rank[a] / size(a) - data.rank[b] / size(b) || a - b,
    unsure: (a, b) => data.probability[a] - data.probability[b] || a - b,
    name: (a, b) => data.file[a].localeCompare(data.file[b], 'en', { numeric: true }) || a - b,
  };

  function choose() {
    const { keeps } = FILTERS[state.filter.kind];
    const words = state.query.normalize('NFC').toLowerCase();
    isShown = Uint8Array.from(data.file, (_, image) =>
      keeps(image, state.filter) && (state.added || !isAdded(image))
        && haystacks[image].includes(words) ? 1 : 0);
    shown = [...isShown.keys()].filter((image) => isShown[image]);
    shown.sort(ORDERS[state.order]);
  }

  function refresh() {
    choose();
    state.listed = FIRST;
    map.choose();
    showList();
    showControls();
  }

  function setFilter(filter) {
    state.filter = filter;
    if (filter.kind === 'added') state.added = true;
    refresh();
  }

  const numbered = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

  function showList() {
    const list = byId('list');
    list.replaceChildren(...shown.slice(0, state.listed).map((image) =>
      pick(image, state.order === 'unsure' ? percent(data.probability[image]) : '')));
    const title = FILTERS[state.filter.kind].title(state.filter)
      + (state.query ? ` with “${state.query}”` : '')
      + (state.added ? '' : ' but those added');
    byId('found').textContent = `${title}: ${shown.length.toLocaleString('en')}`;
    byId('status').textContent = `${numbered(shown.length, 'image')} listed`;
    byId('more').hidden = shown.length <= state.listed;
    markPicked();
  }

  function showControls() {
    const { kind, number } = state.filter;
    const value = kind === 'cluster' ? `cluster ${number}` : kind;
    byId('filter').value = value; // none, of a lasso or a cell
    byId('added')?.setAttribute('aria-pressed', state.added);
    for (const chip of byId('chips').querySelectorAll('.chip')) {
      chip.setAttribute('aria-pressed', chip.dataset.filter === value);
    }
  }

  function markPicked() {
    for (const button of document.querySelectorAll('.pick[data-image]')) {
      if (Number(button.dataset.image) === state.picked) button.setAttribute('aria-pressed', true);
      else button.removeAttribute('aria-pressed');
    }
  }

  // ------------------------------------------------------------- why an image is here

  function choice(image) { // its cluster and the rival, in words
    const second = data.second[image];
    const first = `${isAdded(image) ? 'Added after the fit. ' : ''}${
      titleOf(data.cluster[image])}: ${percent(data.probability[image])} sure.`;
    return second === null ? first
      : `${first} Next best: ${titleOf(second)}, ${percent(data.secondProbability[image])}.`;
  }

  function reason(image) {
    const [near, rival] = data.away[image];
    const second = titleOf(data.second[image]);
    const other = data.added ? 'other image of the fit' : 'other image';
    const among = data.file.length < data.total ? ' of those shown here' : '';
    if (!near.length && !rival.length) return `There is no ${other} to compare it with.`;
    if (!near.length) return `No ${other} of its cluster is shown.`;
    if (!rival.length) return `It lies ${near[0]} from the nearest image of its cluster${among}.`;
    return near[0] <= rival[0]
      ? `It looks more like images of its own cluster (nearest${among}: ${near[0]} away) `
        + `than like those of ${second} (nearest: ${rival[0]} away).`
      : `A doubtful case: the nearest image of ${second}${among} is nearer `
        + `(${rival[0]} away) than the nearest of its own cluster (${near[0]} away).`;
  }

  function facts(image) {
    const found = [
      ['Cluster', titleOf(data.cluster[image])],
      ['Rank in it', `${data.rank[image].toLocaleString('en')} of ${size(image).toLocaleString('en')}, 1 is the most typical`],
    ];
    if (data.typicality[image] != null) {
      found.push(['As likely as', `more likely than ${percent(data.typicality[image])} of the images, to the model`]);
    }
    if (data.label?.[image] != null) found.push(['Label', data.label[image]]);
    if (isAdded(image)) found.push(['Added', 'after the fit, which has not seen it']);
    if (pinned.has(image)) found.push(['Pinned', 'by hand, whatever the model says']);
    if (image in data.why) found.push(['Unlike others', data.why[image] || 'yes']);
    if (image in data.copy) found.push([`${data.copy[image][1] === 'exact' ? 'Exact' : 'Near'} copy`, `of ${data.copy[image][0]}`]);
    for (const [name, cells] of Object.entries(data.metadata ?? {})) {
      if (cells[image]) found.push([name, cells[image]]);
    }
    return element('dl', {}, ...found.flatMap(([term, text]) =>
      [element('dt', { textContent: term }), element('dd', { textContent: text })]));
  }

  function showWhy(image) {
    state.picked = image;
    const [near, rival] = data.near[image];
    const away = (side) => (_, k) => `${data.away[image][side][k]} away`;
    const parts = [
      element('h3', { textContent: data.file[image] }),
      element('div', { className: 'one' }, picture(image)),
      element('p', { textContent: choice(image) }),
      element('h4', { textContent: 'Why is it here?' }),
      element('p', { textContent: reason(image) }),
    ];
    if (near.length) {
      parts.push(element('h4', { textContent: 'Nearest in its own cluster' }), picks(near, away(0)));
    }
    if (rival.length) {
      parts.push(element('h4', { textContent: `Nearest in ${titleOf(data.second[image])}` }),
        picks(rival, away(1)));
    }
    parts.push(facts(image), element('p', { className: 'buttons' },
      element('button', {
        type: 'button', className: 'button', textContent: 'Find it on the map',
        onclick: () => map.goTo(image) }),
      element('button', {
        type: 'button', className: 'button', textContent: 'Its cluster alone',
        onclick: () => setFilter({ kind: 'cluster', number: data.cluster[image] }) })));
    byId('why').replaceChildren(...parts);
    byId('why').scrollTop = 0;
    byId('status').textContent = `${data.file[image]}: ${choice(image)}`;
    markPicked();
    map.draw();
  }

  // ------------------------------------------------------------------------ the map

  const map = (() => {
    const canvas = byId('map');
    const context = canvas.getContext('2d');
    const THUMB = 40; // pixels of a picture on the map, at least
    const MARGIN = 24;
    const DOT = 5;
    const sheets = { images: [], added: [] };
    const order = [...data.file.keys()].sort(ORDERS.typical);
    let [width, height, density] = [0, 0, 1];
    let view = { scale: 1, left: 0, top: 0 }; // of the canvas, in pixels of the page
    let fitted = 1; // the scale of the whole map
    let chosen = { level: null, images: [] }; // those whose pictures are drawn
    let strokes = []; // of the marks of images that were added: colours and widths
    let asked = false; // whether a frame is asked for
    let pictures = true;
    let lasso = null; // the points of the lasso while it is drawn
    let lassoing = false;

    const colours = data.file.map((_, image) => clusterOf.get(data.cluster[image])?.colour ?? '#888');
    // Dots of one colour are drawn together.
    const groups = new Map();
    colours.forEach((colour, image) => {
      if (!groups.has(colour)) groups.set(colour, []);
      groups.get(colour).push(image);
    });
    const names = data.clusters.filter((one) => one.place);

    const toX = (x) => x * view.scale + view.left;
    const toY = (y) => y * view.scale + view.top;
    const back = (x, y) => [(x - view.left) / view.scale, (y - view.top) / view.scale];

    function load() { // the sheets are there already, as pictures of the style
      resize();
      for (const [name, found] of Object.entries(sheets)) {
        for (let k = 0; k < (data.tiles[name]?.sheets ?? 0); k++) {
          const probe = element('i', { className: `t-${name}-${k}` });
          document.body.append(probe);
          const source = getComputedStyle(probe).backgroundImage;
          probe.remove();
          const sheet = new Image();
          sheet.onload = draw;
          sheet.src = source.slice(source.indexOf('(') + 1, -1).replace(/^["']|["']$/g, '');
          found.push(sheet);
        }
      }
    }

    function resize() {
      const box = canvas.getBoundingClientRect();
      if (!box.width) return;
      density = Math.min(2, window.devicePixelRatio || 1);
      const first = !width;
      [width, height] = [box.width, box.height];
      canvas.width = Math.round(width * density);
      canvas.height = Math.round(height * density);
      fit(first);
    }

    function fit(move = true) {
      const most = (cells) => cells.reduce((a, b) => Math.max(a, b), 1);
      const [right, bottom] = [most(data.x), most(data.y)];
      fitted = Math.min((width - 2 * MARGIN) / right, (height - 2 * MARGIN) / bottom);
      if (move) {
        view = {
          scale: fitted, left: (width - right * fitted) / 2, top: (height - bottom * fitted) / 2 };
      }
      draw();
    }

    function zoom(factor, x = width / 2, y = height / 2) {
      const [dataX, dataY] = back(x, y);
      view.scale = Math.min(fitted * 200, Math.max(fitted / 2, view.scale * factor));
      view.left = x - dataX * view.scale;
      view.top = y - dataY * view.scale;
      draw();
    }

    function move(x, y) {
      view.left += x;
      view.top += y;
      draw();
    }

    // Pictures would hide each other: of each cell of a grid one is drawn, the most typical
    // one. The grid lies still on the map, and gets finer when one comes nearer.
    function choosePictures() {
      const level = Math.floor(Math.log2(view.scale / fitted) * 2);
      if (chosen.level === level) return;
      const cell = (THUMB * 1.15) / (fitted * 2 ** (level / 2));
      const taken = new Set();
      const images = [];
      for (const image of order) {
        if (!isShown[image]) continue;
        const key = Math.floor(data.x[image] / cell) * 65536 + Math.floor(data.y[image] / cell);
        if (taken.has(key)) continue;
        taken.add(key);
        images.push(image);
      }
      chosen = { level, images };
    }

    function draw() {
      if (asked) return;
      asked = true;
      requestAnimationFrame(paint);
    }

    function paint() {
      asked = false;
      if (!width) return;
      const style = getComputedStyle(canvas);
      strokes = [[style.getPropertyValue('--paper'), 4], [style.getPropertyValue('--ink'), 2]];
      context.setTransform(density, 0, 0, density, 0, 0);
      context.clearRect(0, 0, width, height);
      const near = Math.min(1.6, (view.scale / fitted) ** .25);
      const dot = DOT * near;
      const dots = (images, faint) => {
        for (const image of images) {
          if (Boolean(isShown[image]) === faint) continue;
          const [x, y] = [toX(data.x[image]), toY(data.y[image])];
          if (x < -dot || y < -dot || x > width + dot || y > height + dot) continue;
          context.fillRect(x - dot / 2, y - dot / 2, dot, dot);
        }
      };
      if (shown.length < count) {
        context.fillStyle = style.getPropertyValue('--line');
        dots(data.file.keys(), true);
      }
      for (const [colour, images] of groups) {
        context.fillStyle = colour;
        dots(images, false);
      }
      if (pictures) paintPictures(style.getPropertyValue('--paper'));
      if (data.added) markDots();
      paintNames(style);
      if (state.picked !== null) ring(state.picked, style.getPropertyValue('--ink'));
      if (lasso) paintLasso(style.getPropertyValue('--accent'));
    }

    const thumbSize = () => THUMB * Math.min(2.2, Math.max(1, (view.scale / fitted / 4) ** .4));

    // Images that were added are marked in a colour of no cluster: a ring around a dot, a
    // frame around a picture.
    function mark(path) {
      for (const [colour, line] of strokes) {
        context.strokeStyle = colour;
        context.lineWidth = line;
        context.stroke(path);
      }
    }

    function markDots() {
      const framed = new Set(pictures ? chosen.images : []);
      const [path, radius] = [new Path2D(), DOT / 2 + 4];
      for (let image = own; image < count; image++) {
        if (!isShown[image] || framed.has(image)) continue;
        const [x, y] = [toX(data.x[image]), toY(data.y[image])];
        if (x < -radius || y < -radius || x > width + radius || y > height + radius) continue;
        path.moveTo(x + radius, y);
        path.arc(x, y, radius, 0, 2 * Math.PI);
      }
      mark(path);
    }

    function paintPictures(paper) {
      choosePictures();
      const size = thumbSize();
      for (const image of chosen.images) {
        const [x, y] = [toX(data.x[image]), toY(data.y[image])];
        if (x < -size || y < -size || x > width + size || y > height + size) continue;
        const tile = tileOf(image, false);
        const sheet = sheets[tile.name][tile.sheet];
        if (!sheet?.complete || !sheet.naturalWidth) continue;
        const [w, h] = [(size * tile.width) / tile.side, (size * tile.height) / tile.side];
        context.fillStyle = colours[image];
        context.fillRect(x - w / 2 - 2, y - h / 2 - 2, w + 4, h + 4);
        context.fillStyle = paper;
        context.imageSmoothingEnabled = !data.tiles[tile.name].exact;
        context.drawImage(
          sheet, tile.column * tile.side + Math.floor((tile.side - tile.width) / 2),
          tile.row * tile.side + Math.floor((tile.side - tile.height) / 2), tile.width,
          tile.height, x - w / 2, y - h / 2, w, h);
        if (isAdded(image)) {
          const frame = new Path2D();
          frame.rect(x - w / 2 - 3, y - h / 2 - 3, w + 6, h + 6);
          mark(frame);
        }
      }
    }

    function paintNames(style) {
      context.font = '600 13px system-ui, sans-serif';
      context.textAlign = 'center';
      context.textBaseline = 'middle';
      const written = []; // a name that would hide another one waits until one is nearer
      for (const one of names) {
        const [x, y] = [toX(one.place[0]), toY(one.place[1])];
        const text = one.title.length > 24 ? `${one.title.slice(0, 23)}…` : one.title;
        const wide = context.measureText(text).width + 12;
        if (written.some(([x0, y0, w]) =>
          Math.abs(x - x0) < (wide + w) / 2 && Math.abs(y - y0) < 22)) continue;
        written.push([x, y, wide]);
        context.fillStyle = style.getPropertyValue('--paper');
        context.globalAlpha = .82;
        context.fillRect(x - wide / 2, y - 10, wide, 20);
        context.globalAlpha = 1;
        context.fillStyle = style.getPropertyValue('--ink');
        context.fillText(text, x, y);
      }
    }

    function ring(image, colour) {
      context.strokeStyle = colour;
      context.lineWidth = 3;
      context.beginPath();
      context.arc(toX(data.x[image]), toY(data.y[image]), THUMB * .75, 0, 2 * Math.PI);
      context.stroke();
    }

    function paintLasso(colour) {
      context.strokeStyle = colour;
      context.lineWidth = 2;
      context.beginPath();
      for (const [x, y] of lasso) context.lineTo(toX(x), toY(y));
      context.closePath();
      context.stroke();
    }

    // The image at a point: a picture that covers it, else the nearest dot.
    function at(x, y) {
      if (pictures) {
        const half = thumbSize() / 2;
        for (let k = chosen.images.length - 1; k >= 0; k--) {
          const image = chosen.images[k];
          if (Math.abs(toX(data.x[image]) - x) <= half && Math.abs(toY(data.y[image]) - y) <= half) {
            return image;
          }
        }
      }
      let [best, nearest] = [null, 12 ** 2];
      for (const image of shown) {
        const away = (toX(data.x[image]) - x) ** 2 + (toY(data.y[image]) - y) ** 2;
        if (away < nearest) [best, nearest] = [image, away];
      }
      return best;
    }

    function hover(image, x, y) {
      const box = byId('hover');
      canvas.style.cursor = image === null || lassoing ? '' : 'pointer';
      box.hidden = image === null;
      if (image === null) return;
      box.replaceChildren(
        picture(image), element('strong', { textContent: data.file[image] }),
        element('div', { textContent: choice(image) }));
      const beside = x + 20 + box.offsetWidth > width ? x - 20 - box.offsetWidth : x + 20;
      box.style.left = `${Math.max(0, beside)}px`;
      box.style.top = `${Math.max(0, Math.min(y - 20, height - box.offsetHeight))}px`;
    }

    function setLasso(on) {
      lassoing = on;
      lasso = null;
      canvas.classList.toggle('drawing', on);
      byId('lasso').setAttribute('aria-pressed', on);
      draw();
    }

    function endLasso() {
      const polygon = lasso;
      setLasso(false);
      if (!polygon || polygon.length < 3) return;
      const images = new Set(shown.filter((image) => inLasso(image, polygon)));
      setFilter({ kind: 'lasso', images });
    }

    const pointers = new Map();
    let dragged = 0;
    const place = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };

    canvas.addEventListener('pointerdown', (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, place(event));
      dragged = 0;
      hover(null);
      if (lassoing) lasso = [back(...place(event))];
    });
    canvas.addEventListener('pointermove', (event) => {
      const [x, y] = place(event);
      const before = pointers.get(event.pointerId);
      if (!before) {
        if (event.pointerType !== 'touch' && !lassoing) hover(at(x, y), x, y);
        return;
      }
      pointers.set(event.pointerId, [x, y]);
      dragged += Math.hypot(x - before[0], y - before[1]);
      if (lasso) {
        lasso.push(back(x, y));
        draw();
      } else if (pointers.size === 1) {
        if (dragged > 4) move(x - before[0], y - before[1]);
      } else {
        const other = [...pointers].find(([id]) => id !== event.pointerId)[1];
        const apart = (point) => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
        move((x - before[0]) / 2, (y - before[1]) / 2);
        zoom(apart([x, y]) / apart(before), (x + other[0]) / 2, (y + other[1]) / 2);
      }
    });
    canvas.addEventListener('pointerup', (event) => {
      if (!pointers.delete(event.pointerId)) return;
      if (lasso) {
        endLasso();
      } else if (dragged <= 4) {
        const image = at(...place(event));
        if (image === null) {
          setFilter({ kind: 'all' });
        } else {
          setFilter({ kind: 'cluster', number: data.cluster[image] });
          showWhy(image);
        }
      }
    });
    canvas.addEventListener('pointercancel', (event) => {
      pointers.delete(event.pointerId);
      lasso = null;
    });
    canvas.addEventListener('pointerleave', () => hover(null));
    canvas.addEventListener('wheel', (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls
      event.preventDefault();
      zoom(Math.exp(-event.deltaY / 300), ...place(event));
    }, { passive: false });
    canvas.addEventListener('keydown', (event) => {
      const step = 60;
      const act = {
        ArrowLeft: () => move(step, 0), ArrowRight: () => move(-step, 0),
        ArrowUp: () => move(0, step), ArrowDown: () => move(0, -step),
        '+': () => zoom(1.5), '=': () => zoom(1.5), '-': () => zoom(1 / 1.5), 0: () => fit(),
        Escape: () => { setLasso(false); setFilter({ kind: 'all' }); },
      }[event.key];
      if (!act || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      act();
    });
    byId('closer').onclick = () => zoom(1.6);
    byId('farther').onclick = () => zoom(1 / 1.6);
    byId('whole').onclick = () => fit();
    byId('lasso').onclick = () => setLasso(!lassoing);
    byId('pictures').onclick = (event) => {
      pictures = !pictures;
      event.currentTarget.setAttribute('aria-pressed', pictures);
      draw();
    };
    if (byId('added')) {
      byId('added').onclick = () => {
        state.added = !state.added;
        if (state.filter.kind === 'added') state.filter = { kind: 'all' };
        refresh();
      };
    }
    new ResizeObserver(resize).observe(canvas);
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);

    return {
      load, draw, move, zoom, fit,
      choose() { chosen.level = null; draw(); },
      goTo(image) {
        view.scale = Math.max(view.scale, fitted * 6);
        view.left = width / 2 - data.x[image] * view.scale;
        view.top = height / 2 - data.y[image] * view.scale;
        draw();
        byId('map').scrollIntoView({ block: 'nearest' });
      },
      // For tests: whether all sheets are there, and where an image is in the window.
      loaded: () => Promise.all(Object.values(sheets).flat().map((sheet) => sheet.decode()))
        .then(() => true),
      spot(image) {
        const box = canvas.getBoundingClientRect();
        return [box.left + toX(data.x[image]), box.top + toY(data.y[image])];
      },
      // Frames a second while the map is moved about, for benchmarks/page.py.
      async measure(frames) {
        canvas.scrollIntoView({ block: 'center', behavior: 'instant' });
        const began = performance.now();
        for (let k = 0; k < frames; k++) {
          move(8 * Math.cos(k / 10), 8 * Math.sin(k / 10));
          await new Promise(requestAnimationFrame);
        }
        return (1000 * frames) / (performance.now() - began);
      },
    };
  })();

  // --------------------------------------------------------------------- a CSV file

  // As results.csv: a text that a spreadsheet would compute or change gets a ' before it.
  const whole = (pattern) => new RegExp(`^(?:${pattern})$`, 'i');
  const [changed, plain] = [whole(data.guard.changed), whole(data.guard.plain)];
  const isTouched = (text) => data.guard.begins.includes(text.charAt(0) || ' ')
    || (changed.test(text) && !plain.test(text));

  function cell(value, isNumber = typeof value !== 'string') {
    if (value === null || value === undefined) return '';
    let text = String(value);
    if (!isNumber && isTouched(text.replace(/^'+/, ''))) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function table(images) {
    const columns = {
      file: data.file, cluster: data.cluster,
      name: data.file.map((_, i) => clusterOf.get(data.cluster[i])?.name ?? ''),
      probability: data.probability, second: data.second,
      second_probability: data.secondProbability, rank: data.rank,
      typicality: data.typicality,
      foreign: data.file.map((_, i) => (!data.judged ? '' : i in data.why ? 'yes' : 'no')),
      added: data.file.map((_, i) => (isAdded(i) ? 'yes' : 'no')),
      duplicate_of: data.file.map((_, i) => data.copy[i]?.[0] ?? null),
      ...(data.label ? { label: data.label } : {}),
    };
    const all = [...Object.entries(columns), ...Object.entries(data.metadata ?? {})];
    const lines = images.map((i) => all.map(([name, cells]) =>
      cell(cells[i], name in columns ? undefined : data.numbers.includes(name))).join(','));
    return [all.map(([name]) => cell(name)).join(','), ...lines].join('\r\n') + '\r\n';
  }

  function save() {
    // The mark by which Excel knows UTF-8.
    const file = new Blob(['\ufeff', table(shown)], { type: 'text/csv;charset=utf-8' });
    const link = element('a', { href: URL.createObjectURL(file), download: 'images.csv' });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    byId('status').textContent = `${numbered(shown.length, 'row')} saved to images.csv`;
  }

  // ------------------------------------------------------------------ side by side

  function showBeside() {
    const numbers = ['left', 'right'].map((id) => Number(byId(id).value));
    byId('sides').replaceChildren(...numbers.map((number) => {
      const images = [...data.file.keys()].filter((image) => data.cluster[image] === number);
      images.sort(ORDERS.typical);
      return element('div', {},
        element('h4', { textContent: `${titleOf(number)}: typical` }), picks(images.slice(0, 16)),
        element('h4', { textContent: 'Least sure' }),
        picks(images.slice(16).slice(-8).reverse(), (image) => percent(data.probability[image])));
    }));
  }

  // ------------------------------------------------------------------- what is done

  function filterOf(text) {
    const [kind, number] = text.split(' ');
    return number === undefined ? { kind } : { kind, number: Number(number) };
  }

  function toList(filter) {
    setFilter(filter);
    byId('found').scrollIntoView();
    byId('found').focus({ preventScroll: true });
  }

  document.addEventListener('click', (event) => {
    const target = event.target.closest('[data-image], [data-filter], [data-cell], [data-beside]');
    if (!target) return;
    if (target.dataset.image !== undefined) {
      showWhy(Number(target.dataset.image));
      byId('why').scrollIntoView({ block: 'nearest' });
    } else if (target.classList.contains('chip')) {
      setFilter(target.getAttribute('aria-pressed') === 'true'
        ? { kind: 'all' } : filterOf(target.dataset.filter));
    } else if (target.dataset.filter) {
      toList(filterOf(target.dataset.filter));
    } else if (target.dataset.cell) {
      const [, number, label] = target.dataset.cell.match(/^(\d+) ([^]*)$/);
      toList({ kind: 'cell', number: Number(number), label });
    } else {
      const numbers = target.dataset.beside.split(' ');
      [byId('left').value, byId('right').value] = numbers;
      showBeside();
      byId('beside').scrollIntoView();
      byId('left').focus({ preventScroll: true });
    }
  });

  let typing = 0;
  byId('query').addEventListener('input', (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.query = event.target.value; refresh(); }, 120);
  });
  byId('filter').addEventListener('change', (event) => setFilter(filterOf(event.target.value)));
  byId('order').addEventListener('change', (event) => { state.order = event.target.value; refresh(); });
  byId('export').addEventListener('click', save);
  byId('more').addEventListener('click', () => {
    const first = state.listed;
    state.listed += MORE;
    showList();
    byId('list').children[first]?.firstChild.focus();
  });
  if (byId('beside')) {
    byId('beside').hidden = false;
    for (const id of ['left', 'right']) byId(id).addEventListener('change', showBeside);
    showBeside();
  }

  byId('chips').replaceChildren(...data.clusters.filter((one) => one.size).map((one) => {
    const swatch = element('span', { className: 'swatch' });
    swatch.style.setProperty('--c', one.colour);
    return element('li', {}, element('button', {
      type: 'button', className: 'chip',
      data: { 'data-filter': `cluster ${one.number}`, 'aria-pressed': false } },
    swatch, `${one.title} (${one.size.toLocaleString('en')})`));
  }));
  byId('explorer').hidden = false;
  map.load();
  refresh();
  window.jdiffclust = { map, table, state, shown: () => shown }; // for tests
})();
