'use strict';

// Tables: a click on a column's name sorts by it, another one the other way round. Empty cells stay last.
const valueOf = (row, column) => {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  return cell.textContent.trim();
};

const compare = (one, other) => {
  if (typeof one === 'number' && typeof other === 'number') return one - other;
  return String(one).localeCompare(String(other), undefined, {numeric: true});
};

function sortBy(table, column, direction) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [valueOf(row, column), row]);
  const sign = direction === 'ascending' ? 1 : -1;
  rows.sort(([one], [other]) => {
    if (one === '' || other === '') return (one === '') - (other === '');
    return sign * compare(one, other);
  });
  body.append(...rows.map(([, row]) => row));
  [...table.tHead.rows[0].cells].forEach((cell, place) => {
    if (place === column) cell.setAttribute('aria-sort', direction);
    else cell.removeAttribute('aria-sort');
  });
}

function resort(table) {
  const cells = [...table.tHead.rows[0].cells];
  const column = cells.findIndex((cell) => cell.hasAttribute('aria-sort'));
  if (column >= 0) sortBy(table, column, cells[column].getAttribute('aria-sort'));
}

document.addEventListener('click', (event) => {
  const head = event.target.closest('.sortable th');
  if (!head) return;
  const table = head.closest('table');
  const first = [...table.tBodies[0].rows].map((row) => valueOf(row, head.cellIndex)).find((value) => value !== '');
  const usual = typeof first === 'number' ? 'descending' : 'ascending';
  const other = usual === 'ascending' ? 'descending' : 'ascending';
  sortBy(table, head.cellIndex, head.getAttribute('aria-sort') === usual ? other : usual);
});

window.addEventListener('beforeprint', () => {
  document.querySelectorAll('details').forEach((details) => { details.open = true; });
});

// Confusions of one run and subset at a time. All texts are set as text, never as HTML.
const data = JSON.parse(document.getElementById('confusion-data').textContent);
const TABLE_CLASSES = 40; // up to which the matrix is a table, else a picture
const COUNTED_CLASSES = 20; // up to which its cells show their counts
const byId = (id) => document.getElementById(id);
const percent = (share) => `${(100 * share).toFixed(1)} %`;

function element(name, text, value) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (value !== undefined) {
    made.dataset.value = value;
    made.className = 'number';
  }
  return made;
}

function fill(id, rows) {
  const body = byId(id).tBodies[0];
  body.replaceChildren(...rows.map((cells) => {
    const row = document.createElement('tr');
    row.append(...cells.map(([text, value]) => element('td', text, value)));
    return row;
  }));
  resort(byId(id));
}

class Confusions {
  constructor(run, subset) {
    Object.assign(this, run);
    this.found = run.subsets[subset];
    this.totals = Array.from({length: this.side}, (_, row) => {
      const start = row * this.side;
      return this.found.matrix.slice(start, start + this.side).reduce((sum, count) => sum + count, 0);
    });
  }

  share(row, column) {
    return this.found.matrix[row * this.side + column] / Math.max(this.totals[row], 1);
  }

  opacity(row, column) {
    const share = this.share(row, column);
    return share ? 0.12 + 0.88 * Math.sqrt(share) : 0;
  }

  // A bin's classes: one name, or the first and the last of several.
  named(place) {
    const first = place * this.bin;
    const last = Math.min(first + this.bin, this.classes.length) - 1;
    return first === last ? this.classes[first] : `${this.classes[first]} … ${this.classes[last]}`;
  }

  described(row, column) {
    const count = this.found.matrix[row * this.side + column];
    return `${this.named(row)} predicted as ${this.named(column)}: ` +
      `${count.toLocaleString('en')} of ${this.totals[row].toLocaleString('en')} (${percent(this.share(row, column))})`;
  }

  table() {
    const table = element('table');
    table.className = this.side > COUNTED_CLASSES ? 'matrix many' : 'matrix';
    const head = table.createTHead().insertRow();
    head.append(element('th'));
    for (let column = 0; column < this.side; column++) {
      const cell = element('th');
      cell.append(element('span', this.classes[column]));
      cell.title = this.classes[column];
      head.append(cell);
    }
    const body = table.createTBody();
    for (let row = 0; row < this.side; row++) {
      const line = body.insertRow();
      const name = element('th');
      name.append(element('span', this.classes[row]));
      name.title = this.classes[row];
      line.append(name);
      for (let column = 0; column < this.side; column++) {
        const cell = line.insertCell();
        const opacity = this.opacity(row, column);
        cell.style.background = `rgba(var(--${row === column ? 'right' : 'wrong'}), ${opacity})`;
        if (opacity > 0.6) cell.style.color = 'var(--paper)';
        cell.title = this.described(row, column);
        const count = this.found.matrix[row * this.side + column];
        if (this.side <= COUNTED_CLASSES && count) cell.textContent = count;
      }
    }
    table.addEventListener('pointerover', (event) => {
      if (event.target.tagName === 'TD') byId('confusion-cell').textContent = event.target.title;
    });
    return table;
  }

  canvas() {
    const canvas = element('canvas');
    canvas.width = canvas.height = this.side;
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', `Confusion matrix of ${this.classes.length} classes`);
    const image = new ImageData(this.side, this.side);
    const style = getComputedStyle(document.documentElement);
    const [right, wrong] = ['--right', '--wrong'].map((name) => style.getPropertyValue(name).split(',').map(Number));
    for (let row = 0; row < this.side; row++) {
      for (let column = 0; column < this.side; column++) {
        const colour = row === column ? right : wrong;
        image.data.set([...colour, 255 * this.opacity(row, column)], 4 * (row * this.side + column));
      }
    }
    canvas.getContext('2d').putImageData(image, 0, 0);
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const place = (at, size) => Math.max(0, Math.min(this.side - 1, Math.floor(at / size * this.side)));
      const row = place(event.clientY - box.top - canvas.clientTop, canvas.clientHeight);
      const column = place(event.clientX - box.left - canvas.clientLeft, canvas.clientWidth);
      byId('confusion-cell').textContent = this.described(row, column);
    };
    canvas.addEventListener('pointermove', point);
    canvas.addEventListener('pointerdown', point);
    return canvas;
  }

  show() {
    byId('confusion-matrix').replaceChildren(this.side > TABLE_CLASSES ? this.canvas() : this.table());
    byId('confusion-bins').textContent =
      this.bin > 1 ? ` Each row and column of the picture holds ${this.bin} classes.` : '';
    byId('confusion-cell').textContent = 'Point at a cell for its count.';
    fill('table-worst', this.found.worst.map(([truth, predicted, count]) => [
      [this.classes[truth]], [this.classes[predicted]], [count.toLocaleString('en'), count],
      [percent(count / this.examples[truth]), count / this.examples[truth]],
    ]));
    byId('confusion-classes').hidden = !this.found.hits;
    if (this.found.hits) this.showClasses();
  }

  showClasses() {
    const {hits, predicted, taken_for: takenFor, taken} = this.found;
    const ratio = (part, all) => all ? [percent(part / all), part / all] : [''];
    fill('table-classes', this.classes.map((name, place) => [
      [name], [this.examples[place].toLocaleString('en'), this.examples[place]],
      ratio(hits[place], this.examples[place]), ratio(hits[place], predicted[place]),
      [takenFor[place] < 0 ? '' : this.classes[takenFor[place]]],
      taken[place] ? [taken[place].toLocaleString('en'), taken[place]] : [''],
    ]));
    filterClasses();
  }
}

function filterClasses() {
  const wanted = byId('class-filter').value.trim().toLowerCase();
  for (const row of byId('table-classes').tBodies[0].rows) {
    row.hidden = wanted !== '' && !row.cells[0].textContent.toLowerCase().includes(wanted);
  }
}

function startConfusions() {
  const runs = byId('confusion-run');
  const subsets = byId('confusion-subset');
  const show = () => new Confusions(data.runs[runs.value], subsets.value).show();
  const chooseRun = () => {
    const before = subsets.value;
    const labels = Object.keys(data.runs[runs.value].subsets);
    subsets.replaceChildren(...labels.map((label) => new Option(label, label)));
    if (labels.includes(before)) subsets.value = before;
    show();
  };
  runs.append(...data.runs.map((run, place) => new Option(run.name, place)));
  runs.addEventListener('change', chooseRun);
  subsets.addEventListener('change', show);
  byId('class-filter').addEventListener('input', filterClasses);
  window.matchMedia('(prefers-color-scheme: dark)').addEventListener('change', show);
  chooseRun();
}

if (data.runs.length) startConfusions();
