// The widgets' scripts ask MathJax 2 (`MathJax.Hub`) to set every text they show. The pages load
// MathJax 3, and widgets hold no formulas: whatever object becomes MathJax gets an idle Hub.
(() => {
  const withHub = (object) =>
    object && !object.Hub ? Object.defineProperty(object, "Hub", { value: { Queue() {} } }) : object;
  let mathjax = withHub(window.MathJax);
  Object.defineProperty(window, "MathJax", {
    configurable: true,
    get: () => mathjax,
    set: (object) => { mathjax = withHub(object); },
  });
})();
