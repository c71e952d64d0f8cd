'use strict';
(() => {
  const table = document.getElementById('runs');
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const value = (row, i) => row.cells[i].dataset.value ?? row.cells[i].textContent;

  // Numbers by size, words by name, and what is missing always at the end.
  const compare = (a, b, up) => {
    if (a === '' || b === '') return (a === '') - (b === '');
    const x = Number(a), y = Number(b);
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return up ? order : -order;
  };

  heads.forEach((head, i) => {
    head.querySelector('button').addEventListener('click', () => {
      const up = head.getAttribute('aria-sort') !== 'ascending';
      heads.forEach((other) => other.removeAttribute('aria-sort'));
      head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      const rows = [...body.rows];
      rows.sort((a, b) => compare(value(a, i), value(b, i), up));
      body.append(...rows);
    });
  });

  // A number must be a cell, as 0.9 the sparsity; a word may be part of one. Not of results.
  const fits = (row, word) => [...row.cells].some((cell) => {
    if (cell.dataset.value !== undefined) return false;
    const text = cell.textContent.toLowerCase();
    return Number.isNaN(Number(text)) || text === '' ? text.includes(word) : Number(text) === Number(word);
  });

  const search = document.getElementById('filter');
  const shown = document.getElementById('shown');
  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of body.rows) {
      row.hidden = !words.every((word) => fits(row, word));
      count += !row.hidden;
    }
    shown.textContent = `${count} of ${body.rows.length} runs`;
  };
  search.addEventListener('input', filter);
  filter();
})();
