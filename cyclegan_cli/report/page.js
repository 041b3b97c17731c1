"use strict";
// The slider: every picture that a generator made, at the chosen step. Without it the page shows
// the newest.
(() => {
  const source = document.getElementById("moments");
  if (!source) return;
  const moments = JSON.parse(source.textContent);
  const pictures = [...document.querySelectorAll("img[data-alt]")];
  const newest = pictures.map((picture) => picture.src);
  const slider = document.getElementById("slider");
  const told = document.getElementById("told");
  const play = document.getElementById("play");
  let timer = 0;

  const show = (number) => {
    const moment = moments[number];
    pictures.forEach((picture, k) => {
      picture.src = moment.made ? moment.made[k] : newest[k];
      picture.alt = `${picture.dataset.alt}, ${moment.label}`;
    });
    told.value = moment.label;
    slider.setAttribute("aria-valuetext", moment.label);
  };
  const stop = () => {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  };
  slider.addEventListener("input", () => {
    stop();
    show(slider.valueAsNumber);
  });
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (slider.value === slider.max) slider.value = "0";
    show(slider.valueAsNumber);
    play.textContent = "Pause";
    timer = setInterval(() => {
      if (slider.value === slider.max) return stop();
      slider.stepUp();
      show(slider.valueAsNumber);
    }, 400);
  });
  // What a browser remembers of a form would leave the slider away from its pictures.
  slider.value = slider.max;
  show(slider.valueAsNumber);
  document.getElementById("controls").hidden = false;
})();
